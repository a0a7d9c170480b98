"""Streams begun at a steady rate: how late a stream's first chunks are."""

from __future__ import annotations

import asyncio

from tests.bench.figures import summary
from tests.bench.load.connection import BROKEN, Connection, Result, connect, request
from tests.bench.mock.frames import STAMP
from tests.bench.mock.orders import Orders

_ORDERS = Orders(chunks=5, gap_us=10_000, first_ms=5, early_head=1)
_SPARE = 32


class _Stream(Connection):
    def __init__(self, free: list[_Stream], delays_ns: list[float]) -> None:
        super().__init__()
        self._free = free
        self._delays_ns = delays_ns
        self.failures = 0

    def on_body(self, body: bytes) -> None:
        # Chunks of a paced stream come one by one, each whole.
        self._delays_ns.extend(self.now_ns - int(stamp) for stamp in STAMP.findall(body))

    def ended(self, status: int) -> None:
        self.failures += status not in (200, BROKEN)
        if status != BROKEN:
            self._free.append(self)


async def run(url: str, model: str, rate: int, seconds: float) -> Result:
    """Delays of the first chunks of every stream, from the engine's writing to our reading."""
    asked = request(url, "/v1/chat/completions", _ORDERS.body(model))
    free: list[_Stream] = []
    delays_ns: list[float] = []
    every = [await connect(url, lambda: _Stream(free, delays_ns)) for _ in range(_SPARE)]
    free.extend(every)
    loop = asyncio.get_running_loop()
    began, missed = loop.time(), 0
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        if free:
            free.pop(0).send(asked)
        else:
            missed += 1
    while len(free) < len(every) and loop.time() < began + seconds + 5:
        await asyncio.sleep(0.01)
    for connection in every:
        connection.transport.close()
    failures = sum(connection.failures for connection in every)
    return {"missed": missed, "failures": failures} | summary(delays_ns, "start")
