"""One connection to the measured server: HTTP/1.1, one exchange at a time."""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import Protocol

import httptools

from sage_inference.bench.exchange import TimedExchange

_FRAMED = re.compile(rb"\r\n(?:content-length|transfer-encoding)\s*:", re.IGNORECASE)


class ConnectionOwner(Protocol):
    """Receives the ends of exchanges and connections."""

    def ended(self, connection: BenchConnection, exchange: TimedExchange, reusable: bool) -> None: ...

    def lost(self, connection: BenchConnection) -> None: ...


class BenchConnection(asyncio.Protocol):
    """A connection. It has no callback for headers: that would cost more than the rest of an answer's handling."""

    __slots__ = (
        "_complete",
        "_exchange",
        "_framed",
        "_head",
        "_keep",
        "_now",
        "_owner",
        "_parser",
        "_surplus",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: TimedExchange | None = None
        self._now = 0.0
        self._head: bytes | None = b""  # the part that has arrived; None when the head is complete
        self._framed = False  # whether the answer declares where its body ends
        self._complete = self._keep = self._surplus = False

    def send(self, exchange: TimedExchange) -> None:
        self._exchange = exchange
        self._head = b""
        self._complete = self._keep = self._surplus = False
        exchange.sent = monotonic()
        self.transport.write(exchange.request)

    def abandon(self) -> None:
        """Close at once, without a call of the owner."""
        self._exchange = None
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self.transport.abort()  # a server must not send without a request
            return
        self._now = monotonic()
        if self._head is not None:
            self._head += data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._surplus = True
            if not self._complete:
                self._fail(exchange, "garbage", f"no valid HTTP: {error}")
                return
        if self._complete:
            self._exchange = None
            exchange.answered(self._now)
            self._owner.ended(self, exchange, self._keep and not self._surplus)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        self._owner.lost(self)
        if exchange is None:
            return
        self._now = monotonic()
        if exc is None and self._head is None and not self._framed:
            self._exchange = None  # a body that ends with its connection (RFC 9112 section 6.3)
            exchange.answered(self._now)
            self._owner.ended(self, exchange, False)
        elif exc is None:
            self._fail(exchange, "closed", "the server closed the connection before its answer ended")
        else:
            self._fail(exchange, "reset", "the server reset the connection before its answer ended")

    def _fail(self, exchange: TimedExchange, error: str, detail: str) -> None:
        self._exchange = None
        exchange.failed(error, detail, self._now)
        self._owner.ended(self, exchange, False)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._surplus = self._surplus or self._complete

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete or self._exchange is None or status < 200:
            return
        assert self._head is not None
        self._framed = status in (204, 304) or _FRAMED.search(self._head) is not None
        self._head = None
        self._exchange.begins(status)

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None and not self._complete:
            self._exchange.reading.feed(body, self._now)

    def on_message_complete(self) -> None:
        # The end of a 1xx response is not the end of the answer.
        if self._head is None and not self._complete:
            self._complete = True
            # Read it now, because the parser drops the message's framing when this callback returns.
            self._keep = self._parser.should_keep_alive()
