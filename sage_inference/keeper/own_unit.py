"""The systemd unit whose main process this is, and whether systemd stops it only to start it again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from sage_inference.keeper.linux import parent

_TIMEOUT_S = 2.0
_RESTARTS = ("restart", "try-restart")


def is_restarting(environ: Mapping[str, str] | None = None) -> bool:
    """Whether systemd has a restart job for this process's unit. Call this when SIGTERM has come. Takes up to 4 s.

    False without systemd, and if it does not answer: the caller then stops for good. False as well if the unit is that
    of another program, such as of the terminal in which this process was started.
    """
    environ = os.environ if environ is None else environ
    if not environ.get("INVOCATION_ID"):
        return False
    unit = unit_of(_cgroups(), is_user="MANAGERPID" in environ)
    if unit is None:
        return False
    name, which = unit
    shown = dict(
        line.partition("=")[::2]
        for line in _systemctl(which, environ, "show", "-p", "MainPID,Job", "--", name)
    )
    if not _is_ours(shown.get("MainPID", "")) or shown.get("Job", "") in ("", "0"):
        return False
    for line in _systemctl(which, environ, "list-jobs", "--no-legend", "--no-pager", "--plain"):
        words = line.split()
        if words[:2] == [shown["Job"], name]:
            return words[2:3] != [] and words[2] in _RESTARTS
    return False


def unit_of(cgroups: str, *, is_user: bool) -> tuple[str, str] | None:
    """The service in the text of ``/proc/PID/cgroup``, and its manager. None if the process is no service's.

    ``is_user``: a user's manager started the process. It sets MANAGERPID.
    """
    for line in cgroups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controllers != "name=systemd":
            continue
        parts = [part for part in path.split("/") if part]
        services = [number for number, part in enumerate(parts) if part.endswith(".service")]
        if not services:
            continue
        name = parts[services[-1]]
        is_user = is_user or any(parts[at].startswith("user@") for at in services[:-1])
        return None if name.startswith("user@") else (name, "--user" if is_user else "--system")
    return None


def _is_ours(main_pid: str) -> bool:
    """Whether it is this process or an ancestor. A launcher such as ``uvx`` stays as our parent."""
    pid: int | None = os.getpid()
    while pid and pid > 1:
        if str(pid) == main_pid:
            return True
        pid = parent(pid)
    return False


def _cgroups() -> str:
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _systemctl(which: str, environ: Mapping[str, str], *words: str) -> list[str]:
    try:
        ended = subprocess.run(
            ["systemctl", which, *words],
            env=dict(environ) | {"LC_ALL": "C", "SYSTEMD_COLORS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return ended.stdout.splitlines()
