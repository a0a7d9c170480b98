"""The connections to the measured server, as many as the load needs."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from sage_inference import trust
from sage_inference.bench.connection import BenchConnection
from sage_inference.bench.exchange import TIMEOUT, TimedExchange

_SWEEP_S = 0.1


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server's address, so that no name is resolved during the measurement. The other fields are for TLS."""

    host: str
    port: int
    context: ssl.SSLContext | None = None
    server_name: str | None = None


class Client:
    """Sends each exchange on a connection that no other exchange uses meanwhile. Calls ``on_end`` once for each.

    There are at most ``limit`` connections. Further exchanges wait; ``waited`` counts them for the report.
    """

    def __init__(
        self,
        endpoint: ServerAddress,
        *,
        limit: int,
        timeout_s: float,
        on_end: Callable[[TimedExchange], None],
    ) -> None:
        self._endpoint = endpoint
        self._loop = loop = asyncio.get_running_loop()
        self._limit = limit
        self._timeout_s = timeout_s
        self._on_end = on_end
        self._idle: list[BenchConnection] = []
        self._connections: set[BenchConnection] = set()
        self._connecting = 0
        self._waiting: deque[TimedExchange] = deque()
        # Each exchange's connection, or the task that makes one for it.
        self._running: dict[TimedExchange, BenchConnection | asyncio.Task[None]] = {}
        self.waited = 0
        self.connections = 0
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def oldest_due(self) -> float | None:
        """The moment at which the oldest exchange under way was due. None if none is under way."""
        oldest = next(iter(self._running), None)  # dicts keep the order of insertion
        return None if oldest is None else oldest.due

    @property
    def _may_connect(self) -> bool:
        return len(self._connections) + self._connecting < self._limit

    def send(self, exchange: TimedExchange) -> None:
        while self._idle:
            connection = self._idle.pop()  # the last one used is the least likely to be closed by the server
            if not connection.transport.is_closing():
                self._running[exchange] = connection
                connection.send(exchange)
                return
        if self._may_connect:
            task = self._running[exchange] = self._loop.create_task(self._connect(exchange))
            self._connecting += 1
            # A callback, because a task that is cancelled before its first step runs none of its code.
            task.add_done_callback(self._connected)
        else:
            self.waited += 1
            self._waiting.append(exchange)

    def close(self) -> list[TimedExchange]:
        """Close all connections at once. Returns the exchanges that were under way."""
        self._sweeper.cancel()
        abandoned = [*self._running, *self._waiting]
        for carrier in [*self._running.values(), *self._idle]:
            carrier.cancel() if isinstance(carrier, asyncio.Task) else carrier.abandon()
        self._running.clear()
        self._waiting.clear()
        self._idle.clear()
        return abandoned

    async def _connect(self, exchange: TimedExchange) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: BenchConnection(self),
                self._endpoint.host,
                self._endpoint.port,
                ssl=self._endpoint.context,
                server_hostname=self._endpoint.server_name,
            )
        except (OSError, ssl.CertificateError) as error:
            kind = "refused" if isinstance(error, ConnectionRefusedError) else "connect"
            self._fail(exchange, kind, trust.explain(error) or (error.strerror or str(error)).lower())
            return
        if connection.transport.is_closing():
            self._fail(exchange, "reset", "the server reset the connection as it was made")
            return
        self.connections += 1
        self._connections.add(connection)
        self._running[exchange] = connection
        connection.send(exchange)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting -= 1
        self._serve_waiting()

    # connection.ConnectionOwner

    def ended(self, connection: BenchConnection, exchange: TimedExchange, reusable: bool) -> None:
        if reusable:
            self._idle.append(connection)
        else:
            connection.abandon()
        self._finish(exchange)

    def lost(self, connection: BenchConnection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_waiting()

    def _fail(self, exchange: TimedExchange, error: str, detail: str) -> None:
        exchange.failed(error, detail, monotonic())
        self._finish(exchange)

    def _finish(self, exchange: TimedExchange) -> None:
        self._running.pop(exchange, None)
        self._on_end(exchange)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and (self._idle or self._may_connect):
            self.send(self._waiting.popleft())

    def _sweep(self) -> None:
        """End exchanges that are out of time. One timer serves all, because a timer costs more than a request."""
        before = monotonic() - self._timeout_s
        late = [one for one in self._running if (one.sent or one.due) < before]
        for exchange in late:
            carrier = self._running[exchange]
            carrier.cancel() if isinstance(carrier, asyncio.Task) else carrier.abandon()
            self._fail(exchange, TIMEOUT, f"no whole answer within {self._timeout_s:g} s")
        self._sweeper = self._loop.call_later(_SWEEP_S, self._sweep)
