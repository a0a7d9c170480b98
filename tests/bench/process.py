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
_PATIENCE_S = 5.0


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
        self._signal(signal.SIGTERM)
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            pass
        # Also where the leader is gone: a child may have outlived it.
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def log_tail(self, size: int = 600) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace").strip()


def wait_for(process: Process, url: str, body: bytes | None = None, seconds: float = 90.0) -> None:
    """Returns once ``url`` answers 200. Raises ``BenchError`` if the process ends, or never does so."""
    end = time.monotonic() + seconds
    while status_of(url, body) != 200:
        words = f"its last words: {process.log_tail() or 'none'}"
        if process.ended():
            raise BenchError(f"{url}: the process ended before it answered; {words}")
        if time.monotonic() > end:
            raise BenchError(f"{url}: no answer within {seconds:g} s; {words}")
        time.sleep(_POLL_S)


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
