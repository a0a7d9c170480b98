"""The child processes of a simulated vLLM: EngineCore, and a worker for each GPU.

As with vLLM 0.32, EngineCore does not notice the death of the API server: it lives on, with its workers, until a signal
ends it. Workers end with EngineCore.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

# An orphan of a failed test ends by itself. A real one keeps its memory for ever.
ORPHAN_S = 120.0
_STOP_S = 5.0
_POLL_S = 0.5
_READY = b"1"
_PR_SET_NAME = 15


class EngineCore:
    """A forked child. ``alive`` is the end of a pipe that closes with it, and carries its readiness before.

    ``status`` is its exit status, or minus the signal that ended it, once ``ended`` has returned true.
    """

    def __init__(self, work: Callable[[], int], workers: int) -> None:
        """``work`` prints the start in the child, and returns 0, or the status of a failure."""
        alive, ours = os.pipe()
        self.status: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run(work, ours, parent, workers)
        os.close(ours)
        self.alive = alive

    def ready(self) -> bool:
        """Wait for readiness. False if the child ended before."""
        return os.read(self.alive, 1) == _READY

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 5 seconds, as vLLM does."""
        if not self.ended():
            os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self._collect(0)

    def ended(self) -> bool:
        return self.status is not None or self._collect(os.WNOHANG)

    def _collect(self, flags: int) -> bool:
        pid, status = os.waitpid(self.pid, flags)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        return pid != 0


def _run(work: Callable[[], int], ours: int, parent: int, workers: int) -> None:
    """The child's life. Never returns."""
    status = 1
    try:
        name_process("VLLM::EngineCore")
        # A real child is spawned: it inherits no listening socket, so the port is free when the API server is dead.
        os.closerange(3, ours)
        os.closerange(ours + 1, 1024)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: os._exit(0))
        _fork_workers(workers)
        status = work()
        if status == 0:
            with suppress(OSError):
                os.write(ours, _READY)
            _live(parent)
    finally:
        os._exit(status)


def _live(parent: int) -> None:
    orphan_since: float | None = None
    while orphan_since is None or time.monotonic() < orphan_since + ORPHAN_S:
        time.sleep(_POLL_S)
        if orphan_since is None and os.getppid() != parent:
            orphan_since = time.monotonic()


def _fork_workers(count: int) -> None:
    held, death = os.pipe()  # EngineCore keeps ``death`` open until it ends
    for rank in range(count):
        if os.fork() == 0:
            name_process(f"VLLM::Worker_TP{rank}" if count > 1 else "VLLM::Worker")
            os.close(death)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            os.read(held, 1)
            os._exit(0)
    os.close(held)


def name_process(name: str) -> None:
    """Set the name that ``ps`` and ``/proc/PID/comm`` show, of which the kernel keeps 15 bytes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
