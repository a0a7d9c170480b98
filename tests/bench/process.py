"""Starting a process on one core, and stopping it with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.errors import BenchError

ROOT = Path(__file__).parents[2]
GATEWAY_CORE = 0
LOAD_CORE = 1
KEY = "sk-bench"
_POLL_S = 0.02


class Process:
    """A process group pinned to one core; its output goes to ``log``."""

    def __init__(
        self,
        command: Sequence[str],
        core: int,
        log: Path,
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
                env=env,
            )
        self.pid = self._popen.pid

    def ended(self) -> bool:
        return self._popen.poll() is not None

    def stop(self) -> None:
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
            try:
                self._popen.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            # The leader is gone; a child that outlived it is not.
            if number is signal.SIGTERM:
                continue
        self._popen.wait()

    def log_tail(self, size: int = 600) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace").strip()


def wait_for(process: Process, url: str, body: bytes | None = None, seconds: float = 90.0) -> float:
    """Seconds until ``url`` answered 200. Raises ``BenchError`` if the process ends or never does."""
    began = time.monotonic()
    while status_of(url, body) != 200:
        waited = time.monotonic() - began
        if process.ended():
            raise BenchError(
                f"{url}: the process ended after {waited:.1f} s; its last words: {process.log_tail()}"
            )
        if waited > seconds:
            raise BenchError(f"{url}: no answer within {seconds:g} s; log: {process.log}")
        time.sleep(_POLL_S)
    return time.monotonic() - began


def status_of(url: str, body: bytes | None = None) -> int:
    """The status of the answer; 0 if there was none."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
