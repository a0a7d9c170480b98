"""The stream engine, run as a program: streams and vectors at the speed a caller orders, and what it saw."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import time
from typing import Any, cast

import httptools
import uvloop

from tests.bench.mock import frames, vectors
from tests.bench.mock.models import models
from tests.bench.mock.orders import Orders

MODEL = "mock-stream"
_FULL = 16_384
_FREE = frames.framed(frames.chunk(frames.stamp(0)))


class Seen:
    """What reached the engine; ``arrived`` and ``left`` are times (CLOCK_MONOTONIC, ns) by a stream's tag."""

    def __init__(self) -> None:
        self.requests = 0
        self.open = 0
        self.arrived: dict[str, int] = {}
        self.left: dict[str, int] = {}


class Pump:
    """Writes the streams without pacing: one chunk each per turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._streams: set[Engine] = set()

    def add(self, stream: Engine) -> None:
        self._streams.add(stream)
        if len(self._streams) == 1:
            self._loop.call_soon(self._turn)

    def discard(self, stream: Engine) -> None:
        self._streams.discard(stream)

    def _turn(self) -> None:
        wrote = False
        for stream in list(self._streams):
            if stream.transport.get_write_buffer_size() < _FULL:
                stream.emit(_FREE)
                wrote = True
        if self._streams:
            # Nobody reads at the moment: ask again soon, without taking the core from those who should.
            _ = self._loop.call_soon(self._turn) if wrote else self._loop.call_later(0.0005, self._turn)


class Engine(asyncio.Protocol):
    """One connection; one request at a time."""

    transport: asyncio.Transport

    def __init__(self, seen: Seen, pump: Pump) -> None:
        self._seen = seen
        self._pump = pump
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._orders: Orders | None = None
        self._sent = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._orders is not None:
            self._seen.left[self._orders.tag] = time.monotonic_ns()
            self._finish()

    # what httptools calls

    def on_message_begin(self) -> None:
        self._path = b""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._path == b"/v1/chat/completions":
            self._chat(Orders.of(self._body))
        elif self._path == b"/v1/embeddings":
            self._seen.requests += 1
            self._answer("200 OK", vectors.respond(self._body))
        elif self._path == b"/seen":
            self._answer("200 OK", json.dumps(vars(self._seen)).encode())
        elif self._path == b"/v1/models":
            self._answer("200 OK", models(MODEL).encode())
        elif self._path == b"/health":
            self._answer("200 OK", b"")
        else:
            self._answer("404 Not Found", b'{"detail":"Not Found"}')

    def _answer(self, status: str, body: bytes) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    # a stream

    def _chat(self, orders: Orders) -> None:
        self._seen.requests += 1
        if orders.reset:
            return self.transport.abort()
        if orders.status != 200:
            return self._answer(f"{orders.status} Mock", b'{"error":{"message":"mock","type":"mock"}}')
        self._orders = orders
        self._seen.open += 1
        if orders.tag:
            self._seen.arrived[orders.tag] = time.monotonic_ns()
        if orders.early_head:
            self.transport.write(frames.HEAD)
        if orders.first_ms:
            self._timer = self._loop.call_later(orders.first_ms / 1000, self._begin, orders)
        else:
            self._begin(orders)
        return None

    def _begin(self, orders: Orders) -> None:
        self._sent = 0
        head = b"" if orders.early_head else frames.HEAD
        self.transport.write(head + frames.framed(frames.first(self._text(orders, -1))))
        if orders.gap_us == 0:
            self._pump.add(self)
            return
        # Spread over the gap, or all streams that began together would speak at once.
        self._due = self._loop.time() + orders.gap_us / 1e6 * random.random()
        self._timer = self._loop.call_at(self._due, self._tick, orders)

    def _tick(self, orders: Orders) -> None:
        self.emit(frames.framed(frames.chunk(self._text(orders, self._sent))))
        if self._orders is not None:
            self._due += orders.gap_us / 1e6
            self._timer = self._loop.call_at(self._due, self._tick, orders)

    def _text(self, orders: Orders, number: int) -> bytes:
        return frames.numbered(orders.tag, number) if orders.tag else frames.stamp(time.monotonic_ns())

    def emit(self, piece: bytes) -> None:
        assert self._orders is not None
        self.transport.write(piece)
        self._sent += 1
        if self._sent >= self._orders.chunks:
            self._finish()
            self.transport.write(frames.framed(frames.LAST) + b"0\r\n\r\n")

    def _finish(self) -> None:
        self._orders = None
        self._seen.open -= 1
        self._pump.discard(self)
        if self._timer is not None:
            self._timer.cancel()


async def serve(port: int) -> None:
    loop: Any = asyncio.get_running_loop()
    seen, pump = Seen(), Pump(loop)
    server = await loop.create_server(lambda: Engine(seen, pump), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
