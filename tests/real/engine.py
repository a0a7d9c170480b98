"""One real engine: start it, wait until it serves, kill it, start it again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from tests.real.install import OFFLINE
from tests.real.recipes import Recipe

GUARD = Path(__file__).with_name("guard.py")
READY_S = 400.0  # about 30 s each on a quiet machine; both load at once, on few cores


class EngineFailedError(Exception):
    """The engine ended or did not come to serve; the text has the end of its log."""


class RealEngine:
    """Its process tree on a port of its own, which stays its own across a kill and a new start."""

    def __init__(self, recipe: Recipe, log: Path) -> None:
        self.recipe = recipe
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        # Bound and never listening: nobody else gets the port; an engine, which sets SO_REUSEPORT or _REUSEADDR, can.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getsockname()[1]}"

    @property
    def model(self) -> str:
        return self.recipe.model

    def start(self) -> None:
        """Start loading; `wait_ready` waits for the end of it."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(GUARD), *self._command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,  # a Ctrl-C is for the tests; they end the engine in order
            )

    def wait_ready(self, within_s: float = READY_S) -> None:
        assert self._process is not None
        deadline = time.monotonic() + within_s
        while not self._serves():
            if time.monotonic() > deadline:
                raise EngineFailedError(self._about(f"did not serve within {within_s:.0f} s"))
            try:
                status = self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
            raise EngineFailedError(self._about(f"ended with status {status} before it served"))

    def kill(self) -> None:
        """SIGKILL to all of its processes, as the kernel does when memory is short."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._process.wait(30)
        self.close_input()

    def revive(self) -> None:
        """Serving again after a kill; nothing to do if it still runs."""
        if self._process is None or self._process.poll() is not None:
            self.start()
            self.wait_ready()

    def stop(self) -> None:
        """End it and give the port back; fine if it is not running."""
        self.close_input()
        if self._process is not None:
            self._process.wait(40)
        self._port.close()

    def close_input(self) -> None:
        """What a test run's death does by itself: the guard sees it and ends the engine."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _serves(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/health", timeout=2, trust_env=False, verify=False)
            return answer.status_code == 200
        except httpx.TransportError:
            return False

    def _command(self) -> list[str]:
        host, port = self._port.getsockname()
        return [*self.recipe.command, "--host", host, "--port", str(port)]

    def _environment(self) -> dict[str, str]:
        # A VLLM_API_KEY or the like of the person at the keyboard is not for this engine.
        theirs = ("VLLM_", "HF_", "INFINITY_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        return {**kept, **OFFLINE, **self.recipe.environment}

    def _about(self, what: str) -> str:
        return f"the real {self.recipe.name} engine {what}; the end of {self.log}:\n{self.log_tail()}"
