"""The manager of systemd that runs the service: the user's or the system's. Every question to it has a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sage_inference.daemon.errors import DaemonError
from sage_inference.daemon.systemd import CONFINED
from sage_inference.keeper.transient_unit import user_runtime

Which = Literal["--user", "--system"]

_QUESTION_S = 2.0
_PROBE_S = 10.0


class ServiceError(DaemonError):
    """The service cannot be installed, removed or described."""

    code = "service"


class Manager:
    """Raises ``ServiceError`` in ``__init__`` where there is no such manager."""

    def __init__(self, which: Which, environ: Mapping[str, str] | None = None) -> None:
        self.which = which
        self._environ = dict(os.environ if environ is None else environ)
        self._environ |= {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
        problem = absence(which, self._environ)
        if problem is not None:
            raise problem
        if which == "--user":
            self._environ["XDG_RUNTIME_DIR"] = str(user_runtime(self._environ))

    def do(self, *words: str, timeout_s: float = 30.0) -> None:
        """Raises ``ServiceError`` with the manager's own words."""
        ended = self._run(["systemctl", self.which, "--quiet", *words], timeout_s)
        if ended.returncode:
            raise ServiceError(f"systemctl {words[0]} failed: {_last_line(ended.stderr)}")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """The properties of a unit. Empty where the manager does not answer."""
        call = ["systemctl", self.which, "show", "-p", ",".join(properties), "--", unit]
        try:
            ended = self._run(call, _QUESTION_S)
        except ServiceError:
            return {}
        return dict(line.partition("=")[::2] for line in ended.stdout.splitlines() if "=" in line)

    def variables(self) -> set[str]:
        """The names of the variables that every unit of this manager gets."""
        try:
            ended = self._run(["systemctl", self.which, "show-environment"], _QUESTION_S)
        except ServiceError:
            return set()
        return {line.partition("=")[0] for line in ended.stdout.splitlines()}

    def can_confine(self) -> bool:
        """Whether a unit with the options of ``CONFINED`` starts. Some systems allow users no user namespaces."""
        call = ["systemd-run", self.which, "--quiet", "--wait", "--collect"]
        call += [f"--property={key}={value}" for key, value in CONFINED.items()]
        try:
            return self._run([*call, "--", "/bin/true"], _PROBE_S).returncode == 0
        except ServiceError:
            return False

    def _run(self, call: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                call,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{call[0]} did not answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ServiceError(f"{call[0]} cannot be run: {error.strerror}") from None


def absence(which: Which, environ: Mapping[str, str]) -> ServiceError | None:
    """The reason why there is no such manager. None if there is one."""
    by_hand = "sage inference start --background needs none"
    if sys.platform == "darwin":
        return ServiceError(
            "services are installed with systemd, which macOS has not; launchd is not supported, because it "
            "has not been tested",
            by_hand,
        )
    if shutil.which("systemctl", path=environ.get("PATH")) is None:
        return ServiceError("there is no systemctl, so systemd does not run services here", by_hand)
    if which == "--user" and user_runtime(environ) is None:
        return ServiceError(
            f"no user manager of systemd runs for user id {os.geteuid()}",
            "log in as this user without su or sudo; loginctl enable-linger starts one that needs no login",
        )
    if which == "--system" and not Path("/run/systemd/system").is_dir():
        return ServiceError("this system was not started by systemd", by_hand)
    return None


def linger(environ: Mapping[str, str] | None = None) -> bool | None:
    """Whether this user's manager runs without a login. None where that is not known."""
    call = ["loginctl", "show-user", str(os.geteuid()), "-p", "Linger", "--value"]
    try:
        ended = subprocess.run(
            call,
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUESTION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(ended.stdout.strip()) if ended.returncode == 0 else None


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no reason was given"
