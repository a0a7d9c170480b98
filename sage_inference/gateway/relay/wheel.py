"""Coarse timers: one wheel for all timeouts, so that moving a deadline costs an attribute, not a timer."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from sage_inference.gateway.isolation import report

TICK_S = 0.05
_LATE = 2  # ticks from a deadline to its bucket's turn: ``now`` is up to a tick old


class Timed(Protocol):
    """Something with at most one deadline at a time, on the loop's clock; infinite means none."""

    deadline: float
    wakes_at: float  # the wheel's own: the soonest deadline its bucket is for, 0 while it is in none

    def timed_out(self) -> None: ...

    def broke(self, error: Exception) -> None:
        """It gets what its own ``timed_out`` raised."""


class Wheel:
    """Calls ``timed_out`` at a deadline, give or take three ticks.

    Moving a deadline later touches nothing but ``Timed.deadline``: the bucket it lies in finds out when its
    turn comes. Moving it sooner puts it into a sooner bucket. ``now`` is the clock as of the last tick.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time()
        self._turn = int(self.now / TICK_S)
        self._buckets: dict[int, set[Timed]] = {}
        self._handle = loop.call_later(TICK_S, self._tick)

    def set(self, timed: Timed, seconds: float) -> None:
        """The deadline is ``seconds`` from now; infinite: there is none."""
        timed.deadline = deadline = self.now + seconds
        if not 0 < timed.wakes_at <= deadline:
            self._sooner(timed, deadline)

    def remove(self, timed: Timed) -> None:
        """Forget it; it may be freed."""
        timed.deadline = math.inf
        if timed.wakes_at:
            self._leave(timed)

    def stop(self) -> None:
        self._handle.cancel()
        self._buckets.clear()

    def _sooner(self, timed: Timed, deadline: float) -> None:
        if timed.wakes_at:
            self._leave(timed)
        if deadline < math.inf:
            self._enter(timed, int(deadline / TICK_S) + _LATE)

    def _enter(self, timed: Timed, bucket: int) -> None:
        timed.wakes_at = (bucket - _LATE) * TICK_S
        self._buckets.setdefault(bucket, set()).add(timed)

    def _leave(self, timed: Timed) -> None:
        bucket = self._buckets.get(round(timed.wakes_at / TICK_S) + _LATE)
        timed.wakes_at = 0
        if bucket is not None:
            bucket.discard(timed)

    def _broke(self, timed: Timed, error: Exception) -> None:
        """Others' deadlines are next, and must not be lost with it."""
        try:
            timed.broke(error)
        except Exception as another:
            report(another, "a time-out")

    def _tick(self) -> None:
        self.now = now = self._loop.time()
        self._handle = self._loop.call_later(TICK_S, self._tick)
        last, self._turn = self._turn, int(now / TICK_S)
        for turn in range(last + 1, self._turn + 1):
            for timed in self._buckets.pop(turn, ()):
                timed.wakes_at = 0
                if timed.deadline == math.inf:
                    continue
                if timed.deadline <= now:
                    timed.deadline = math.inf
                    try:
                        timed.timed_out()
                    except Exception as error:
                        self._broke(timed, error)
                else:
                    self._enter(timed, max(int(timed.deadline / TICK_S) + 1, self._turn + 1))
