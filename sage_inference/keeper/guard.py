"""The keeper's own parent: if the keeper is killed, the guard ends the engine, which nobody would own."""

from __future__ import annotations

import os
import signal
import time

from sage_inference.keeper import files
from sage_inference.keeper.children import Ending, reap

_ROUND_S = 0.02
_SPARED_S = 5.0  # for processes that tidy up after the others
_REST_S = 1.0  # for the others, after the first process has ended
_READ = 64 << 10


class EngineGuard:
    """Waits for ``keeper``. Holds copies of the lock's descriptor, so that the lock stays held as long as the engine."""

    def __init__(self, keeper: int, directory: str, output: int, grace_s: float) -> None:
        self._keeper = keeper
        self._directory = directory
        self._output = output
        self._grace_s = grace_s
        self._signals = {signal.SIGTERM, signal.SIGCHLD}
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)

    def wait(self) -> int:
        """The status to exit with, after the last process has ended."""
        while True:
            number = signal.sigwait(self._signals)
            if number == signal.SIGTERM:
                os.kill(self._keeper, signal.SIGTERM)  # our own child, not waited for
                continue
            ended, others = reap()
            if self._keeper in ended:
                # The engine's first process may have ended together with the keeper.
                code = os.waitstatus_to_exitcode(ended.pop(self._keeper))
                self._end_engine(ended, others)
                return code & 0xFF

    def _end_engine(self, ended: dict[int, int], others: bool) -> None:
        """End the processes that are this one's children now. The kernel has sent SIGTERM to the engine's first one."""
        document = files.read(self._directory, files.ENGINE) or {}
        leader = document.get("engine_pid")
        os.set_blocking(self._output, False)
        kill_from = time.monotonic() + self._grace_s
        ending = Ending()
        while True:
            for pid, status in ended.items():
                ending.forget(pid)
                if pid == leader:
                    self._record(os.waitstatus_to_exitcode(status))
                    kill_from = min(kill_from, time.monotonic() + _REST_S)
            if not others:
                return
            self._discard_output()
            now = time.monotonic()
            if now >= kill_from:
                ending.round(spare_trackers=now < kill_from + _SPARED_S)
            signal.sigtimedwait(self._signals, _ROUND_S)
            ended, others = reap()

    def _discard_output(self) -> None:
        """An engine that ends must not wait for a reader of its last words."""
        try:
            while os.read(self._output, _READ):
                pass
        except OSError:
            pass

    def _record(self, code: int) -> None:
        record = {
            "status": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "at": time.time(),
            "ordered": False,
            "oom_killed": False,
            "keeper_killed": True,
        }
        try:
            files.write(self._directory, files.EXIT, record)
        except OSError:
            pass
