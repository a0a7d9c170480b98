"""A gateway as its users run it: the real command, in a process, home and port of its own."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from sage_inference.config.paths import Paths
from sage_inference.daemon import pidfile

READY_S = 30.0


# One byte of this file stands for each port. A byte that is locked is a port that a test process was given: until the
# test's own process binds it, the system would give it to another.
_CLAIMS = os.open(f"{tempfile.gettempdir()}/sage-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
_PORTS = range(20000, 32000)  # below the range that outgoing connections are given
_given: set[int] = set()


def free_port() -> int:
    """A port nobody listens on, which no other test is given."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        try:
            fcntl.lockf(_CLAIMS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # until this process ends
        except OSError:
            continue
        _given.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without the settings of the person at the keyboard, and with a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SAGE_", "OPENAI_"))}
    kept.pop("NOTIFY_SOCKET", None)
    # A gateway without instances would serve the engines of the machine, and those of other tests.
    return kept | {"SAGE_INFERENCE_HOME": str(home), "SAGE_INFERENCE_DISCOVER": "false"} | more


def _limit_open_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class NotReadyError(Exception):
    """The gateway ended or did not become ready; the text has all it wrote."""


class Gateway:
    """A running ``sage inference start``."""

    def __init__(
        self,
        home: Path,
        port: int,
        args: Sequence[str],
        env: Mapping[str, str],
        open_files: int | None = None,
    ) -> None:
        self.home = home
        self.port = port
        self.scheme = "http"
        environ = clean_environment(home, NOTIFY_SOCKET=str(home / "notify"), **env)
        self.paths = Paths.resolve(environ=environ)
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(environ["NOTIFY_SOCKET"])
        self._notifications.settimeout(0.2)
        with (home / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sage_inference", "inference", "start", "--port", str(port), *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=home,
                start_new_session=True,
                preexec_fn=None if open_files is None else partial(_limit_open_files, open_files),
            )

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def admin(self) -> dict[str, str]:
        """What /admin asks for, from the pidfile."""
        info = pidfile.read(self.paths.pid_file)
        assert info is not None
        return {"authorization": f"Bearer {info.admin_token}"}

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            **{"base_url": self.url, "trust_env": False, "verify": False, "timeout": 60, **options}
        )

    def log(self) -> str:
        """What it printed, and its log file."""
        files = (self.home / "output", self.paths.log_file)
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())

    def wait_notified(self, word: str, seconds: float = READY_S) -> None:
        """Wait for a line such as ``READY=1`` on the notify socket."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                lines = self._notifications.recv(4096).decode().splitlines()
            except TimeoutError:
                self._check_alive(word)
                continue
            if word in lines:
                return
        raise NotReadyError(f"no {word} within {seconds:g} s:\n{self.log()}")

    def status(self) -> dict[str, Any]:
        with self.client(timeout=5, headers=self.admin) as client:
            document: dict[str, Any] = client.get("/admin/status").raise_for_status().json()
            return document

    def instances(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status()["instances"]
        return found

    def wait_instances(
        self, state: str = "ready", *, name: str | None = None, seconds: float = READY_S
    ) -> None:
        """Wait until every instance (or the one named) is in ``state``, by the gateway's own word."""
        deadline = time.monotonic() + seconds
        while True:
            found = [one for one in self.instances() if name in (None, one["name"])]
            if found and all(one["state"] == state for one in found):
                return
            if time.monotonic() > deadline:
                raise NotReadyError(f"not {state} within {seconds:g} s: {found}\n{self.log()}")
            self._pause(state)

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM, and its exit status; fine if it ended before."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End it and all it started, however it is."""
        try:
            self.stop()
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)
            self._notifications.close()

    def _check_alive(self, awaited: str) -> None:
        status = self.process.poll()
        if status is not None:
            raise NotReadyError(f"ended with status {status} before {awaited}:\n{self.log()}")

    def _pause(self, awaited: str) -> None:
        try:
            self.process.wait(0.05)
        except subprocess.TimeoutExpired:
            return
        self._check_alive(awaited)


@contextmanager
def running_gateway(
    *engine_urls: str,
    config: Mapping[str, Any] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    await_instances: bool = True,
    open_files: int | None = None,
) -> Iterator[Gateway]:
    """A gateway before ``engine_urls``, ready, with all its instances unless told not to wait for them.

    ``config`` is the configuration file's content; ``instances`` in it come after those of ``engine_urls``.
    """
    # Not pytest's tmp_path: the notify socket's path must stay under 108 characters.
    home = Path(tempfile.mkdtemp(prefix="sage-"))
    document = dict(config or {})
    document["instances"] = [*({"url": url} for url in engine_urls), *document.get("instances", ())]
    (home / "config.yaml").write_text(json.dumps(document))  # JSON is YAML
    gateway = Gateway(home, free_port(), args, env or {}, open_files)
    if document.get("server", {}).get("tls_cert"):
        gateway.scheme = "https"
    try:
        gateway.wait_notified("READY=1")
        if await_instances and document["instances"]:
            gateway.wait_instances()
        yield gateway
    finally:
        gateway.close()
        shutil.rmtree(home, ignore_errors=True)
