"""One load on one server, from the first request to the last answer."""

from __future__ import annotations

import asyncio
import math
import signal
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from time import monotonic

from sage_inference.bench.client import Client, ServerAddress
from sage_inference.bench.exchange import PreparedRequest, TimedExchange
from sage_inference.bench.load import ClosedLoop, OpenLoop, poisson, replay
from sage_inference.bench.plan import Closed, Plan, Replay
from sage_inference.bench.tally import Tally
from sage_inference.bench.watch import Watch
from sage_inference.bench.window import Window

_TICK_S = 0.1
_RATE_TICKS = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a measurement. ``share`` is None if the end depends on the server."""

    elapsed_s: float
    share: float | None
    ok: int
    failed: int
    in_flight: int
    oldest_s: float  # since the oldest request in flight was due
    per_s: float  # answers in the last second


OnProgress = Callable[[Progress], None]


class Measurement:
    """Runs once. Afterwards ``tallies``, ``window`` and the other attributes have the outcome."""

    def __init__(
        self,
        plan: Plan,
        requests: Iterator[PreparedRequest],
        endpoint: ServerAddress,
        limit: int,
        on_progress: OnProgress,
    ) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._loop = loop = asyncio.get_running_loop()
        self.tallies = {kind: Tally() for kind in plan.shape.mix}
        self.window = Window(0.0, math.inf)
        self.client = Client(endpoint, limit=limit, timeout_s=plan.timeout_s, on_end=self._ended)
        self.load = _load(plan, requests, self.client, loop)
        self._watch = Watch(loop)
        self.cpu: float | None = None
        self.interrupted = False
        self._finished = asyncio.Event()
        self._ok = self._failed = 0
        self._counts = deque([0], maxlen=_RATE_TICKS + 1)
        self._began = self._last = 0.0

    async def run(self, *, cut_at_end: bool = False) -> None:
        """Run to the end, or to SIGINT, which keeps the figures so far. ``cut_at_end`` skips the last answers."""
        plan = self._plan
        self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
        self._begin()
        timers = [self._loop.call_later(plan.warmup_s, self._watch.start)]
        if plan.duration_s is not None:
            over = self._finished.set if cut_at_end else self.load.stop
            timers.append(self._loop.call_later(plan.warmup_s + plan.duration_s, over))
        ticks = asyncio.create_task(self._ticks())
        try:
            await self._finished.wait()
        finally:
            self._loop.remove_signal_handler(signal.SIGINT)
            ticks.cancel()
            for timer in timers:
                timer.cancel()
            self._end()

    @property
    def lag(self) -> array[float]:
        return self._watch.lag

    def _begin(self) -> None:
        plan = self._plan
        self._began = self._last = monotonic()
        self.window.start = self._began + plan.warmup_s
        until = math.inf if plan.duration_s is None else self.window.start + plan.duration_s
        if not isinstance(plan.load, Replay):
            self.window.end = until
        self.load.start(self._began, until)

    def _end(self) -> None:
        now = monotonic()
        self._stop_watch()
        if self.load.over and self.window.end == math.inf:
            self.window.sent_until = self.load.last_due
        self.load.stop()
        for exchange in self.client.close():
            self.tallies[exchange.kind].abandon(exchange, self.window, now)
        if self.interrupted:
            self.window.end = min(self.window.end, now)
        elif self.window.end == math.inf:
            self.window.end = max(self._last, self.window.start)

    def _interrupt(self) -> None:
        self.interrupted = True
        self._finished.set()

    def _ended(self, exchange: TimedExchange) -> None:
        self.tallies[exchange.kind].add(exchange, self.window, self._plan.slo)
        self._last = exchange.ended
        if exchange.error is None:
            self._ok += 1
        else:
            self._failed += 1
        self.load.ended(exchange)
        if self.load.over:
            self._look()

    def _look(self) -> None:
        """After the last request was sent, stop the watch. Finish if no answers are missing."""
        self._stop_watch()
        if not self.client.in_flight:
            self._finished.set()

    def _stop_watch(self) -> None:
        if self.cpu is None:
            self.cpu = self._watch.stop()

    async def _ticks(self) -> None:
        """Report progress, and notice an end without an answer, for example if no connection can be made."""
        while True:
            await asyncio.sleep(_TICK_S)
            if self.load.over:
                self._look()
            self._on_progress(self._progress())

    def _progress(self) -> Progress:
        elapsed = monotonic() - self._began
        counts = self._counts
        counts.append(self._ok + self._failed)
        rate = (counts[-1] - counts[0]) / (_TICK_S * (len(counts) - 1))
        oldest = self.client.oldest_due
        return Progress(
            elapsed,
            self._share(elapsed),
            self._ok,
            self._failed,
            self.client.in_flight,
            0.0 if oldest is None else self._began + elapsed - oldest,
            rate,
        )

    def _share(self, elapsed: float) -> float | None:
        plan = self._plan
        if plan.requests is not None:
            return min(1.0, (self._ok + self._failed) / plan.requests)
        if plan.duration_s is not None:
            return min(1.0, elapsed / (plan.warmup_s + plan.duration_s))
        return None


def _load(
    plan: Plan, requests: Iterator[PreparedRequest], client: Client, loop: asyncio.AbstractEventLoop
) -> ClosedLoop | OpenLoop:
    requests = islice(requests, plan.requests)
    if isinstance(plan.load, Closed):
        return ClosedLoop(plan.load.concurrency, requests, client, loop)
    if isinstance(plan.load, Replay):
        moments = replay(plan.load.rows, plan.load.speedup)
    else:
        moments = poisson(plan.load.rate, Random(plan.shape.seed))  # noqa: S311 - a workload, not a secret
    return OpenLoop(moments, requests, client, loop)
