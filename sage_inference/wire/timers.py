"""Coarse timers: one wheel for all timeouts, so that moving a deadline costs an attribute, not a timer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from sage_inference.wire.isolation import report

TICK_S = 0.05
_LATE = 2  # ticks from a deadline to its bucket: ``now`` is up to a tick old
_STALL_S = 2 * TICK_S  # a tick this late shows that the loop did not run meanwhile
# Iterations of the loop between finding that a deadline has passed and acting on it. uvloop runs timers and callbacks
# before or after it reads sockets, depending on where it was delayed, and data may be handled an iteration later.
_ITERATIONS = 3


class Timed(Protocol):
    """Something with at most one deadline at a time, on the wheel's clock; infinite means none."""

    deadline: float
    wakes_at: float  # for the wheel: the soonest deadline of its bucket, 0 while it is in none

    def timed_out(self) -> None: ...

    def broke(self, error: Exception) -> None:
        """Called with the exception that ``timed_out`` raised."""


class Loop(Protocol):
    """The part of an event loop that a wheel needs."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any: ...

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> Any: ...


class TimerWheel:
    """Calls ``timed_out`` at a deadline, give or take three ticks.

    Moving a deadline later changes ``Timed.deadline`` only: the bucket that it lies in is read at the old time, and
    moves it then. Moving a deadline sooner puts it into a sooner bucket.

    ``idle_at`` is ``idle_s`` after ``now``: the deadline of a stream from its latest chunk on. It is computed once a
    tick, because it is set for each chunk. A new ``idle_s`` holds for each stream from its next chunk on.

    ``now`` is the wheel's clock as of the last tick. It counts only time in which the loop ran: after a suspended
    process or a long callback, every deadline is as far away as before. ``lost`` is the time that was not counted.
    A deadline that has passed takes effect only after the sockets were read once more, because an answer that
    already lies there moves the deadline.
    """

    def __init__(self, loop: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock  # not the loop's: that one stands still while a callback runs
        self._ticked_at = self.now = clock()
        self._idle_s = self.idle_at = math.inf
        self.lost = 0.0
        self.on_stall: Callable[[float], object] | None = None  # called with the seconds that were lost
        self._bucket = int(self.now / TICK_S)
        self._buckets: dict[int, set[Timed]] = {}
        self._stopped = False
        self._handle = loop.call_later(TICK_S, self._tick)

    @property
    def idle_s(self) -> float:
        """Seconds for which a stream may be silent; infinite until it is set."""
        return self._idle_s

    @idle_s.setter
    def idle_s(self, seconds: float) -> None:
        if seconds < self._idle_s:
            self._visit_by(self.now + seconds)
        self._idle_s = seconds
        self.idle_at = self.now + seconds

    def set(self, timed: Timed, seconds: float) -> None:
        """Set the deadline to ``seconds`` from now; infinite means none."""
        timed.deadline = deadline = self.now + seconds
        wakes_at = timed.wakes_at
        if wakes_at > deadline or not wakes_at:
            self._move_sooner(timed, deadline)

    def remove(self, timed: Timed) -> None:
        """Drop the reference to ``timed``, and its deadline."""
        timed.deadline = math.inf
        if timed.wakes_at:
            self._leave(timed)

    def stop(self) -> None:
        self._stopped = True
        self._handle.cancel()
        self._buckets.clear()

    def _move_sooner(self, timed: Timed, deadline: float) -> None:
        if timed.wakes_at:
            self._leave(timed)
        if deadline < math.inf:
            self._enter(timed, int(deadline / TICK_S) + _LATE)

    def _visit_by(self, deadline: float) -> None:
        """Read every bucket by then, because a chunk sets a sooner ``idle_at`` without a call."""
        latest = int(deadline / TICK_S) + _LATE
        for bucket in [each for each in self._buckets if each > latest]:
            for timed in self._buckets.pop(bucket):
                self._enter(timed, latest)

    def _enter(self, timed: Timed, bucket: int) -> None:
        timed.wakes_at = (bucket - _LATE) * TICK_S
        self._buckets.setdefault(bucket, set()).add(timed)

    def _leave(self, timed: Timed) -> None:
        bucket = self._buckets.get(round(timed.wakes_at / TICK_S) + _LATE)
        timed.wakes_at = 0
        if bucket is not None:
            bucket.discard(timed)

    def _broke(self, timed: Timed, error: Exception) -> None:
        """Report the exception, also one of ``broke`` itself, so that the deadlines behind it are not lost."""
        try:
            timed.broke(error)
        except Exception as another:
            report(another, "a time-out")

    def _tick(self) -> None:
        self.advance()
        self._handle = self._loop.call_later(TICK_S, self._tick)
        now = self.now
        last, self._bucket = self._bucket, int(now / TICK_S)
        due: list[Timed] = []
        for bucket in range(last + 1, self._bucket + 1):
            for timed in self._buckets.pop(bucket, ()):
                timed.wakes_at = 0
                if timed.deadline == math.inf:
                    continue
                if timed.deadline <= now:
                    due.append(timed)
                else:
                    self._enter(timed, max(int(timed.deadline / TICK_S) + 1, self._bucket + 1))
        if due:
            self._loop.call_soon(self._await_reads, due, now, _ITERATIONS)

    def advance(self) -> None:
        """Move the clock on; by one tick at most, if the loop did not run.

        Each tick calls it. Call it before a time is measured, so that a stall is not taken for slowness.
        """
        real = self._clock()
        passed, self._ticked_at = real - self._ticked_at, real
        if passed > TICK_S + _STALL_S:
            lost, passed = passed - TICK_S, TICK_S
            self.lost += lost
            if self.on_stall is not None:
                self.on_stall(lost)
        self.now += passed
        self.idle_at = self.now + self._idle_s

    def _await_reads(self, due: list[Timed], now: float, iterations: int) -> None:
        if iterations:
            self._loop.call_soon(self._await_reads, due, now, iterations - 1)
            return
        for timed in due:
            if timed.deadline > now or self._stopped:
                continue  # it was moved or removed in the meantime
            timed.deadline = math.inf
            if timed.wakes_at:
                self._leave(timed)
            try:
                timed.timed_out()
            except Exception as error:
                self._broke(timed, error)
