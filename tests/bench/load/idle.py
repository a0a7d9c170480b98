"""A crowd of idle keep-alive connections, and how those fare that are active meanwhile."""

from __future__ import annotations

import asyncio

from tests.bench.load import paced_rate
from tests.bench.load.connection import Call, Result, connect, request
from tests.bench.mock import plain

_AT_ONCE = 100


async def run(url: str, connections: int, rate: int, seconds: float) -> Result:
    """``held``: idle connections that still answered at the end; ``before_``: latency without them."""
    asked = request(url, "/v1/chat/completions", plain.request())
    turn = asyncio.Semaphore(_AT_ONCE)

    async def answered(call: Call) -> bool:
        async with turn:
            return not call.transport.is_closing() and await call.start(asked) == 200

    async def opened() -> Call:
        async with turn:
            return await connect(url, Call)

    before = await paced_rate.run(url, rate, seconds)
    crowd = await asyncio.gather(*(opened() for _ in range(connections)))
    await asyncio.gather(*map(answered, crowd))
    during = await paced_rate.run(url, rate, seconds)
    held = sum(await asyncio.gather(*map(answered, crowd)))
    for call in crowd:
        call.transport.close()
    return {"held": held} | during | {f"before_{key}": value for key, value in before.items()}
