"""A caller's keep-alive connection, parsed by llhttp: as little of the load's core as Python allows."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TypeVar, cast
from urllib.parse import urlsplit

import httptools

from tests.bench.process import KEY

BROKEN = 0
Result = dict[str, float | None]


def mark() -> None:
    """Tells the process that started us that a measured span begins or ends now."""
    print("MARK", flush=True)


def request(url: str, path: str, body: bytes | None = None) -> bytes:
    """A whole request: POST with a body, GET without."""
    method = "GET" if body is None else "POST"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body or b'')}\r\n\r\n"
    )
    return head.encode() + (body or b"")


class Connection(asyncio.Protocol):
    """``ended`` is called with the status at each answer's end, and with ``BROKEN`` when it closes."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self.now_ns = 0
        self.sent_ns = 0

    def send(self, request: bytes) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._complete = False
        self.sent_ns = time.monotonic_ns()
        self.transport.write(request)

    def ended(self, status: int) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.now_ns = time.monotonic_ns()
        self._parser.feed_data(data)
        if self._complete:
            self._complete = False
            self.ended(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended(BROKEN)

    def on_body(self, body: bytes) -> None:
        """For those who look at it."""

    def on_message_complete(self) -> None:
        self._complete = True


C = TypeVar("C", bound=Connection)


async def connect(url: str, factory: Callable[[], C]) -> C:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    _, connection = await asyncio.get_running_loop().create_connection(
        factory, address.hostname, address.port
    )
    return connection


class Call(Connection):
    """A connection whose answers are awaited one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()
        self.first_byte = asyncio.Event()
        self._answer: asyncio.Future[int] | None = None

    def start(self, request: bytes) -> asyncio.Future[int]:
        """The answer's status, once it is complete; ``BROKEN`` if it never is."""
        self.body.clear()
        self.first_byte.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self.send(request)
        return self._answer

    def on_body(self, body: bytes) -> None:
        self.body += body
        self.first_byte.set()

    def ended(self, status: int) -> None:
        # Whoever waits for the first byte must see that none will come.
        self.first_byte.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)
