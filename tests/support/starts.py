"""Simulated engines that start as the real ones do, as processes with a log file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from tests.support.python_path import led_by

_ROOT = Path(__file__).resolve().parents[2]
_WITHIN_S = 15.0


class StartedEngine:
    """A started engine. ``close`` kills what it left, children without a parent included."""

    def __init__(
        self, command: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sage_inference.simulator", command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": led_by(_ROOT), **(environ or {})},
                start_new_session=True,  # the whole tree is found by its session
            )

    @property
    def text(self) -> str:
        return self.log.read_bytes().decode()

    @property
    def lines(self) -> list[str]:
        """The log's lines, without colours. Progress that is separated by ``\\r`` is several lines."""
        plain = re.sub(r"\x1b\[\d+m", "", self.text)
        return [line for line in re.split(r"[\r\n]+", plain) if line]

    def wait_for(self, words: str, within_s: float = _WITHIN_S) -> None:
        """Wait until the log has these words."""
        deadline = time.monotonic() + within_s
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} did not appear in:\n{self.text}"
            assert self.process.poll() is None or words in self.text, f"ended before {words!r}:\n{self.text}"
            time.sleep(0.01)

    def wait(self, within_s: float = _WITHIN_S) -> int:
        return self.process.wait(within_s)

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def members(self) -> list[psutil.Process]:
        """All processes of the engine's session that still run."""
        found = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_gone(self, within_s: float = _WITHIN_S) -> None:
        """Wait until no process of the engine runs."""
        deadline = time.monotonic() + within_s
        while left := self.members():
            assert time.monotonic() < deadline, f"still there: {left}"
            time.sleep(0.01)

    def named(self, name: str) -> psutil.Process:
        """The one process whose name begins with this one."""
        (found,) = (one for one in self.members() if one.name().startswith(name[:15]))
        return found

    def close(self) -> None:
        for process in self.members():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def started(
    command: str, *arguments: str, log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[StartedEngine]:
    engine = StartedEngine(command, arguments, log, environ)
    try:
        yield engine
    finally:
        engine.close()


def client(url: str = "http://localhost", *, uds: str | None = None) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=uds, verify=False)
    return httpx.Client(base_url=url, transport=transport, trust_env=False, timeout=10)
