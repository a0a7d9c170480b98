"""Deadlines: each at its time, and none of them for time in which the process did not run."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from sage_inference.wire.timers import TICK_S, TimerWheel


class Loop:
    """An event loop on a clock of its own. ``arrived`` is what it reads next, as callbacks.

    ``timers_first``: whether due timers run before what arrived is read, as happens after a stall.
    """

    def __init__(self, timers_first: bool = True) -> None:
        self.now = 1000.0
        self.timers_first = timers_first
        self.arrived: deque[Callable[[], object]] = deque()
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Any:
        heapq.heappush(self._timers, (self.now + delay, next(self._order), callback))

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> None:
        self._ready.append((callback, args))

    def turn(self) -> None:
        """One turn: timers, what is ready, what arrived; in the order that is hardest."""
        if not self.timers_first:
            self._read()
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()
        for _ in range(len(self._ready)):
            callback, args = self._ready.popleft()
            callback(*args)
        self._read()

    def _read(self) -> None:
        while self.arrived:
            self.arrived.popleft()()

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass in small steps, with turns enough for what each brings."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += min(step, until - self.now)
            for _ in range(6):
                self.turn()


class Timed:
    def __init__(self, wheel: TimerWheel, loop: Loop) -> None:
        self.deadline = math.inf
        self.wakes_at = 0.0
        self.fired: list[float] = []
        self.failures: list[Exception] = []
        self._loop = loop

    def timed_out(self) -> None:
        self.fired.append(self._loop.now)

    def broke(self, error: Exception) -> None:
        self.failures.append(error)


def made(timers_first: bool = True) -> tuple[Loop, TimerWheel, Timed]:
    loop = Loop(timers_first)
    wheel = TimerWheel(loop, loop.clock)
    return loop, wheel, Timed(wheel, loop)


@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.5, 1.0, 7.77])
def test_a_deadline_comes_within_a_few_ticks_of_its_time(seconds: float) -> None:
    loop, wheel, timed = made()
    wheel.set(timed, seconds)
    loop.run(seconds + 5 * TICK_S)
    assert len(timed.fired) == 1
    assert -1e-6 <= timed.fired[0] - 1000.0 - seconds <= 4 * TICK_S


@pytest.mark.parametrize("stall", [0.3, 1.0, 3.0, 12.0, 3600.0])
@pytest.mark.parametrize("left", [0.001, 0.04, 0.2, 0.9])
def test_a_stall_leaves_every_deadline_as_far_away_as_before(stall: float, left: float) -> None:
    loop, wheel, timed = made()
    wheel.set(timed, 1.0)
    loop.run(1.0 - left)
    loop.now += stall
    resumed = loop.now
    loop.run(left + 5 * TICK_S)
    assert len(timed.fired) == 1
    assert timed.fired[0] >= resumed + left - 2 * TICK_S
    assert wheel.lost == pytest.approx(stall, abs=2 * TICK_S)


@pytest.mark.parametrize("timers_first", [True, False])
@pytest.mark.parametrize("stall", [0.0, 0.09, 0.16, 3.0])
def test_what_arrived_in_time_moves_the_deadline_before_it_is_acted_on(
    timers_first: bool, stall: float
) -> None:
    loop, wheel, timed = made(timers_first)
    wheel.set(timed, 0.5)
    loop.run(0.55)
    loop.now += 0.06 + stall  # the tick that finds the deadline passed is due
    loop.arrived.append(lambda: wheel.set(timed, 0.5))
    loop.run(0.3)
    assert timed.fired == []


def test_stalls_one_after_another_are_all_left_out() -> None:
    loop, wheel, timed = made()
    wheel.set(timed, 1.0)
    for _ in range(10):
        loop.now += 5.0
        loop.run(0.05)
    assert timed.fired == []
    loop.run(1.0)
    assert len(timed.fired) == 1


def test_a_busy_loop_still_lets_time_pass() -> None:
    loop, wheel, timed = made()
    wheel.set(timed, 1.0)
    loop.run(3.0, step=0.13)
    assert len(timed.fired) == 1


def test_one_that_is_removed_while_its_time_is_up_is_left_alone() -> None:
    loop, wheel, timed = made()
    wheel.set(timed, 0.1)
    loop.now += 0.05
    loop.turn()
    for _ in range(4):
        loop.now += 0.05
        loop.turn()
        wheel.remove(timed)
    loop.run(1.0)
    assert timed.fired == []


def test_one_that_fails_does_not_keep_the_others_from_their_time() -> None:
    loop, wheel, _ = made()

    class Failing(Timed):
        def timed_out(self) -> None:
            super().timed_out()
            raise RuntimeError("no")

    several = [Failing(wheel, loop) for _ in range(3)]
    for timed in several:
        wheel.set(timed, 0.1)
    loop.run(0.5)
    assert [len(timed.fired) for timed in several] == [1, 1, 1]
    assert [len(timed.failures) for timed in several] == [1, 1, 1]


def test_a_stall_is_reported_once_with_the_time_that_was_lost() -> None:
    loop, wheel, _ = made()
    stalls: list[float] = []
    wheel.on_stall = stalls.append
    loop.run(1.0)
    loop.now += 12.0
    loop.run(1.0)
    assert stalls == [pytest.approx(12.0, abs=2 * TICK_S)]


class Fails(Timed):
    """Its time-out raises, and where ``twice`` so does what it does about that."""

    twice = False

    def timed_out(self) -> None:
        super().timed_out()
        raise LookupError

    def broke(self, error: Exception) -> None:
        super().broke(error)
        if self.twice:
            raise error


@pytest.mark.parametrize("twice", [False, True])
def test_a_time_out_that_fails_takes_no_other_with_it(twice: bool) -> None:
    loop, wheel, _ = made()
    several = [(Fails if n % 3 == 0 else Timed)(wheel, loop) for n in range(12)]
    for timed in several:
        if isinstance(timed, Fails):
            timed.twice = twice
        wheel.set(timed, 0.5)
    loop.run(1.0)
    assert [len(timed.fired) for timed in several] == [1] * 12
    assert [len(timed.failures) for timed in several] == [1, 0, 0] * 4
