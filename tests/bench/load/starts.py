"""Waves of streams that begin in the same moment: how late a stream's first chunks are."""

from __future__ import annotations

import asyncio
import time

from tests.bench.figures import summary
from tests.bench.load.connection import BROKEN, Call, Result, connect, request
from tests.bench.mock.frames import STAMP
from tests.bench.mock.orders import Orders

_ORDERS = Orders(chunks=10, gap_us=10_000, first_ms=5, early_head=1)


class _Timed(Call):
    """Chunks of a paced stream come one by one, each whole."""

    def __init__(self) -> None:
        super().__init__()
        self.delays_ns: list[float] = []

    def on_body(self, body: bytes) -> None:
        self.delays_ns.extend(self.now_ns - int(stamp) for stamp in STAMP.findall(body))


async def run(url: str, model: str, streams: int, seconds: float) -> Result:
    """Delays of the first chunks of every stream, from the engine's writing to our reading."""
    asked = request(url, "/v1/chat/completions", _ORDERS.body(model))
    calls = [await connect(url, _Timed) for _ in range(streams)]
    failures, waves, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        statuses = await asyncio.gather(*(call.start(asked) for call in calls))
        failures += len(statuses) - statuses.count(200)
        waves += 1
        if BROKEN in statuses:
            break
    for call in calls:
        call.transport.close()
    delays_ns = [delay for call in calls for delay in call.delays_ns]
    return {"waves": waves, "failures": failures} | summary(delays_ns, "start")
