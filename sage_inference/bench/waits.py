"""The waits of callers for text, including those that the latencies leave out.

Latencies are of requests that were due in the measured time. Two kinds of waits hardly show in them. A request that
was due in the warm-up, and still waits, has no latency at all. In a closed loop a caller that waits ten seconds sends
one request while every other caller sends hundreds, so that no percentile moves (coordinated omission).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import sub
from typing import NamedTuple

from sage_inference.bench.exchange import NO_CALLER, TIMEOUT, TimedExchange
from sage_inference.bench.samples import nearest_rank
from sage_inference.bench.window import Window

LONG = 3  # times the median of its kind: a wait beyond it is a long one
_MOST = 0.5  # of the time of load: a caller with a long wait of that length starves
_THROUGHOUT = 0.95  # not 1, because the first requests of a closed loop leave one after another

_ANSWERED, _IN_VAIN, _IN_WARMUP = 1, 2, 4


class Wait(NamedTuple):
    """A time in which a caller got no text of its answer."""

    begin: float
    end: float
    caller: int
    answered: bool  # the request ended well
    in_vain: bool  # the request timed out or was broken off, and had no text since
    due_in_warmup: bool

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(slots=True)
class Waits:
    """The longest wait of each request of one kind, in arrays: a run may have millions of requests."""

    begins: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    callers: array[int] = field(default_factory=lambda: array("l"))
    flags: array[int] = field(default_factory=lambda: array("b"))

    def add(self, exchange: TimedExchange, window: Window, ended: float, *, broken_off: bool = False) -> None:
        """Count a request that ended, or was ``broken_off``. Its waits count if a part of them lies in the window."""
        moments = [exchange.due, *exchange.reading.arrivals, ended]
        first = max(bisect_right(moments, window.start) - 1, 0)
        last = min(bisect_left(moments, window.end), len(moments) - 1)
        gaps = list(map(sub, moments[first + 1 : last + 1], moments[first:last]))
        if not gaps:
            return
        longest = first + gaps.index(max(gaps))
        unfinished = broken_off or exchange.error == TIMEOUT
        flags = 0
        if not broken_off and exchange.error is None:
            flags |= _ANSWERED
        if unfinished and longest == len(moments) - 2:
            flags |= _IN_VAIN
        if exchange.due < window.start:
            flags |= _IN_WARMUP
        self.begins.append(moments[longest])
        self.ends.append(moments[longest + 1])
        self.callers.append(exchange.caller)
        self.flags.append(flags)

    def __iter__(self) -> Iterator[Wait]:
        for begin, end, caller, flags in zip(self.begins, self.ends, self.callers, self.flags, strict=True):
            yield Wait(
                begin, end, caller, bool(flags & _ANSWERED), bool(flags & _IN_VAIN), bool(flags & _IN_WARMUP)
            )

    def median_s(self) -> float | None:
        """The median of requests that ended well. With quick refusals in it, every other wait would be a long one."""
        seconds = sorted(one.seconds for one in self if one.answered)
        return nearest_rank(seconds, 500) if seconds else None


@dataclass(frozen=True, slots=True)
class WaitFigures:
    """Figures of the callers that waited in the measured time. A long wait is over 3 x the median of its kind.

    ``starving``: callers with a long wait that lasted half as long as the load or longer, or was in vain.
    ``throughout``: callers that got no text in the whole time of load.
    ``unanswered``: callers with a long wait in vain, or with any wait in vain if no request ended well.
    """

    requests: int
    due_in_warmup: int
    median_s: float | None  # None without a request that ended well, and for several kinds together
    longest_s: float | None
    long: int | None  # requests with a long wait; None without a median to compare with
    long_at_a_time: float | None  # callers that had waited so long already: the mean over the time of load
    starving: int
    throughout: int
    unanswered: int

    @property
    def long_share(self) -> float | None:
        return self.long / self.requests if self.long is not None and self.requests else None


def waiting(kinds: Iterable[Waits], window: Window) -> WaitFigures:
    """The figures of one kind or several. Each request is compared with the median of its own kind."""
    parts = [_Part.of(waits, window) for waits in kinds]
    compared = [part for part in parts if part.median_s is not None]
    judged = any(part.comparable for part in parts)
    return WaitFigures(
        requests=sum(part.requests for part in parts),
        due_in_warmup=sum(part.due_in_warmup for part in parts),
        median_s=parts[0].median_s if len(parts) == 1 else None,
        longest_s=max((part.longest_s for part in parts if part.requests), default=None),
        long=sum(part.long for part in parts) if compared else None,
        long_at_a_time=sum(part.long_at_a_time for part in parts) if judged else None,
        starving=_count(part.starving for part in parts),
        throughout=_count(part.throughout for part in parts),
        unanswered=_count(part.unanswered for part in parts),
    )


@dataclass(slots=True)
class _Part:
    """The figures of one kind, with the callers themselves, because one caller may send requests of several kinds."""

    median_s: float | None
    comparable: bool
    requests: int = 0
    due_in_warmup: int = 0
    longest_s: float = 0.0
    long: int = 0
    long_at_a_time: float = 0.0
    starving: list[int] = field(default_factory=list)
    throughout: list[int] = field(default_factory=list)
    unanswered: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, waits: Waits, window: Window) -> _Part:
        load_s = window.load_end - window.start
        median_s = waits.median_s()
        # In a load shorter than an answer all wait throughout, and none is worse off than the others.
        part = cls(median_s, median_s is not None and 0 < load_s >= median_s)
        for one in waits:
            part._add(one, window, load_s)
        return part

    def _add(self, one: Wait, window: Window, load_s: float) -> None:
        self.requests += 1
        self.due_in_warmup += one.due_in_warmup
        self.longest_s = max(self.longest_s, one.seconds)
        took_s = _within(window, one.begin, one.end)
        if load_s > 0 and took_s >= _THROUGHOUT * load_s:
            self.throughout.append(one.caller)
        limit_s = math.inf if self.median_s is None else LONG * self.median_s
        is_long = one.seconds > limit_s
        if one.in_vain and (is_long or self.median_s is None):
            self.unanswered.append(one.caller)
        if not is_long:
            return
        self.long += 1
        if self.comparable:
            self.long_at_a_time += _within(window, one.begin + limit_s, one.end) / load_s
        # The part before the load counts too, because the load may begin in the middle of a wait.
        lasted = one.seconds >= _MOST * load_s and took_s > limit_s
        if one.in_vain or (self.comparable and lasted):
            self.starving.append(one.caller)


def _within(window: Window, begin: float, end: float) -> float:
    """Seconds from ``begin`` to ``end`` that lie in the time of load."""
    return max(0.0, min(end, window.load_end) - max(begin, window.start))


def _count(parts: Iterable[list[int]]) -> int:
    """The number of distinct callers. In an open loop each request is a caller of its own."""
    callers = [caller for part in parts for caller in part]
    return len(set(callers) - {NO_CALLER}) + callers.count(NO_CALLER)
