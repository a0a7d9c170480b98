"""A timer with a finer resolution than an event loop's whole milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_ABSOLUTE = 1


class PreciseTimer:
    """Calls ``ring`` at a moment of ``time.monotonic``, within tens of microseconds if Linux's timerfd exists.

    A gateway adds about a millisecond. A timer as late as that would be counted as the server's delay.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._precise = _TimerFile.open()
        if self._precise is not None:
            loop.add_reader(self._precise.file, self._rang)

    def set(self, moment: float) -> None:
        """Ring at ``moment``, or at once if it is past. A new moment replaces the one before."""
        if self._precise is not None:
            self._precise.set(moment)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, moment - time.monotonic()), self._ring)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._precise is not None:
            self._loop.remove_reader(self._precise.file)
            os.close(self._precise.file)
            self._precise = None

    def _rang(self) -> None:
        assert self._precise is not None
        try:
            os.read(self._precise.file, 8)
        except BlockingIOError:
            return  # it was set again between its expiry and this call
        self._ring()


class _Spec(ctypes.Structure):
    """C's ``struct itimerspec``."""

    _fields_ = [(name, ctypes.c_long) for name in ("again_s", "again_ns", "s", "ns")]


class _TimerFile:
    """A timer of the system as a file that becomes readable. Python has it only from 3.13 on."""

    def __init__(self, libc: ctypes.CDLL, file: int) -> None:
        self._libc = libc
        self.file = file

    @classmethod
    def open(cls) -> _TimerFile | None:
        if sys.platform != "linux":
            return None
        libc = ctypes.CDLL(None)
        file = libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        return cls(libc, file) if file >= 0 else None

    def set(self, moment: float) -> None:
        whole = max(0, int(moment))
        # All zeros would switch the timer off.
        spec = _Spec(0, 0, whole, max(1, int((moment - whole) * 1e9)))
        self._libc.timerfd_settime(self.file, _ABSOLUTE, ctypes.byref(spec), None)
