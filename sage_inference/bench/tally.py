"""Counts and measures of the requests of one kind."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from sage_inference.bench.exchange import Kind, TimedExchange
from sage_inference.bench.samples import samples
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.waits import Waits
from sage_inference.bench.window import Window


@dataclass(frozen=True, slots=True)
class Times:
    """Times of one answer in seconds. ``ttft`` is None without streamed text, ``tpot`` without a second token."""

    e2e: float
    ttft: float | None = None
    tpot: float | None = None

    @classmethod
    def of(cls, exchange: TimedExchange) -> Times:
        e2e = exchange.ended - exchange.due
        arrivals = exchange.reading.arrivals
        if not arrivals:
            return cls(e2e)
        tokens = exchange.reading.output_tokens or len(arrivals)
        tpot = (arrivals[-1] - arrivals[0]) / (tokens - 1) if tokens > 1 else None
        return cls(e2e, arrivals[0] - exchange.due, tpot)

    def keep(self, slo: SloLimits, *, streamed: bool) -> bool:
        return slo.met(streamed=streamed, ttft_s=self.ttft, tpot_s=self.tpot, e2e_s=self.e2e)


@dataclass(slots=True)
class Failures:
    """The number of failures of one kind, and the message of the first one."""

    count: int
    example: str


@dataclass(slots=True)
class Tally:
    """``sent`` = ``ok`` + ``failed`` + ``abandoned``. All count requests that were due in the window.

    Rates count answers and chunks that arrived in the window, whenever their request was due. So a steady load has a
    steady rate, even with long requests. ``waits`` are of all requests that waited in the window, by kind.
    """

    sent: int = 0
    ok: int = 0
    failed: int = 0
    abandoned: int = 0
    good: int = 0  # of ``ok``, answers that met the SLO
    errors: dict[str, Failures] = field(default_factory=dict)
    completed: int = 0
    completed_good: int = 0
    prompt_tokens: int = 0
    output_tokens: float = 0
    chunks: int = 0
    ttft: array[float] = field(default_factory=samples)
    tpot: array[float] = field(default_factory=samples)
    gaps: array[float] = field(default_factory=samples)
    e2e: array[float] = field(default_factory=samples)
    waits: list[Waits] = field(default_factory=lambda: [Waits()])

    def add(self, exchange: TimedExchange, window: Window, slo: SloLimits) -> None:
        """Count an exchange that has ended."""
        self.waits[0].add(exchange, window, exchange.ended)
        counts = exchange.due >= window.start
        self.sent += counts
        if exchange.error is not None:
            if counts:
                self.failed += 1
                self.errors.setdefault(exchange.error, Failures(0, exchange.detail)).count += 1
            return
        times = Times.of(exchange)
        good = bool(slo) and times.keep(slo, streamed=exchange.kind is Kind.STREAM)
        self._receive(exchange, window)
        if window.start <= exchange.ended <= window.end:
            self.completed += 1
            self.completed_good += good
            self.prompt_tokens += exchange.reading.prompt_tokens or 0
        if counts:
            self.ok += 1
            self.good += good
            self._measure(exchange, times)

    def abandon(self, exchange: TimedExchange, window: Window, now: float) -> None:
        """Count an exchange that was still under way when the measurement was broken off, ``now``."""
        self.waits[0].add(exchange, window, now, broken_off=True)
        self._receive(exchange, window)
        if exchange.due >= window.start:
            self.sent += 1
            self.abandoned += 1

    def _receive(self, exchange: TimedExchange, window: Window) -> None:
        """Count chunks in the window, and a stream's tokens in proportion. Other answers' tokens count at their end."""
        arrivals, tokens = exchange.reading.arrivals, exchange.reading.output_tokens
        if arrivals:
            inside = bisect_right(arrivals, window.end) - bisect_left(arrivals, window.start)
            self.chunks += inside
            self.output_tokens += inside if tokens is None else tokens * inside / len(arrivals)
        elif window.start <= exchange.ended <= window.end:
            self.output_tokens += tokens or 0

    def _measure(self, exchange: TimedExchange, times: Times) -> None:
        self.e2e.append(times.e2e)
        if times.ttft is not None:
            self.ttft.append(times.ttft)
            self.gaps.extend(later - earlier for earlier, later in pairwise(exchange.reading.arrivals))
        if times.tpot is not None:
            self.tpot.append(times.tpot)


_COUNTS = (
    "sent",
    "ok",
    "failed",
    "abandoned",
    "good",
    "completed",
    "completed_good",
    "prompt_tokens",
    "output_tokens",
    "chunks",
)


def total(tallies: Iterable[Tally]) -> Tally:
    """The tally of all kinds together."""
    whole = Tally(waits=[])
    for one in tallies:
        whole.waits += one.waits
        for name in _COUNTS:
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        for name in ("ttft", "tpot", "gaps", "e2e"):
            getattr(whole, name).extend(getattr(one, name))
        for kind, failures in one.errors.items():
            known = whole.errors.setdefault(kind, Failures(0, failures.example))
            known.count += failures.count
    return whole
