"""Sends requests, either at given moments or each after an answer."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Callable, Iterator
from random import Random
from time import monotonic
from typing import Protocol

from sage_inference.bench.client import Client
from sage_inference.bench.exchange import PreparedRequest, TimedExchange
from sage_inference.bench.precise_timer import PreciseTimer
from sage_inference.bench.samples import samples
from sage_inference.bench.trace import TraceRow

_AT_ONCE = 64  # requests sent before the loop reads answers again
_AFTER_NO_CONNECTION_S = 0.1

Send = Callable[[TimedExchange], None]


def poisson(rate: float, random: Random) -> Iterator[float]:
    """Arrivals of requests from independent callers, in seconds, ``rate`` a second on average. Endless."""
    at = 0.0
    while True:
        at += random.expovariate(rate)
        yield at


def replay(rows: list[TraceRow], speedup: float) -> Iterator[float]:
    """Arrivals of a trace's requests in seconds, the first at 0."""
    first = rows[0].t_ms
    for row in rows:
        yield (row.t_ms - first) / 1000 / speedup


class Load(Protocol):
    """A way of sending. It is ``over`` when it will send no more. Answers may still be missing then.

    A load reads the clock to send nothing at ``until`` or later, because timers of a busy loop may be seconds late.
    """

    over: bool
    last_due: float  # of all requests that were sent

    def start(self, at: float, until: float) -> None: ...

    def ended(self, exchange: TimedExchange) -> None: ...

    def stop(self) -> None: ...


class OpenLoop:
    """Sends each request at its moment. ``late`` are the delays that the generator itself caused."""

    def __init__(
        self,
        moments: Iterator[float],
        requests: Iterator[PreparedRequest],
        client: Client,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._moments = moments
        self._requests = requests
        self._client = client
        self._loop = loop
        self._timer = PreciseTimer(loop, self._ring)
        self._started = 0.0
        self._until = math.inf
        self._next: TimedExchange | None = None
        self.late: array[float] = samples()
        self.over = False
        self.last_due = 0.0

    def start(self, at: float, until: float) -> None:
        self._started, self._until = at, until
        self._prepare()
        self._ring()

    def ended(self, exchange: TimedExchange) -> None:
        """Do nothing: answers do not affect an open loop."""

    def stop(self) -> None:
        if not self.over:
            self.over = True
            self._next = None
            self._timer.close()

    def _prepare(self) -> None:
        """Make the next request before its moment, so that making it does not delay it."""
        moment = next(self._moments, None)
        request = None if moment is None else next(self._requests, None)
        if moment is None or request is None or self._started + moment >= self._until:
            self.stop()
        else:
            self._next = TimedExchange(request, self._started + moment)

    def _ring(self) -> None:
        for _ in range(_AT_ONCE):
            exchange = self._next
            if exchange is None:
                return
            now = monotonic()
            if exchange.due > now:
                self._timer.set(exchange.due)
                return
            self.late.append(now - exchange.due)
            self.last_due = exchange.due
            self._client.send(exchange)
            self._prepare()
        self._loop.call_soon(self._ring)


class ClosedLoop:
    """Keeps ``concurrency`` requests under way: after each answer the next one is sent."""

    def __init__(
        self,
        concurrency: int,
        requests: Iterator[PreparedRequest],
        client: Client,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._concurrency = concurrency
        self._requests = requests
        self._client = client
        self._loop = loop
        self._until = math.inf
        self.over = False
        self.last_due = 0.0

    def start(self, at: float, until: float) -> None:
        self._until = until
        for caller in range(self._concurrency):
            self._send(caller)

    def ended(self, exchange: TimedExchange) -> None:
        if exchange.sent is None:
            # No connection was made. Without a pause, this would try ten thousand times a second.
            self._loop.call_later(_AFTER_NO_CONNECTION_S, self._send, exchange.caller)
        else:
            self._send(exchange.caller)

    def stop(self) -> None:
        self.over = True

    def _send(self, caller: int) -> None:
        if self.over:
            return
        now = monotonic()
        request = next(self._requests, None) if now < self._until else None
        if request is None:
            self.over = True
        else:
            self.last_due = now
            self._client.send(TimedExchange(request, now, caller))
