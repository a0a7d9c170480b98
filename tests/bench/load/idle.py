"""A crowd of idle keep-alive connections, and how those fare that are active meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.bench.load.connection import Call, Result, connect, request
from tests.bench.load.paced_rate import Paced, paced
from tests.bench.mock import plain

T = TypeVar("T")
TURNS = 3
_AT_ONCE = 100
_PATIENCE_S = 30.0


async def run(url: str, connections: int, rate: int, seconds: float) -> Result:
    """``held``: idle connections that still answered at the end; ``before_``: latency without them.

    The crowd comes and goes ``TURNS`` times, and all turns count together: a machine's own stalls, which make a p99,
    come in spells of seconds, and would else fall to one side.
    """
    asked = request(url, "/v1/chat/completions", plain.request())
    before, during, held = Paced(), Paced(), connections
    for _ in range(TURNS):
        before += await paced(url, rate, seconds)
        crowd = await _each(lambda: connect(url, Call), connections)
        await _answered(crowd, asked)
        during += await paced(url, rate, seconds)
        held = min(held, await _answered(crowd, asked))
        for call in crowd:
            call.transport.close()
        await _answered([await connect(url, Call)], asked)  # it has seen them go
    return {"held": held} | during.result() | {f"before_{key}": it for key, it in before.result().items()}


async def _answered(crowd: list[Call], asked: bytes) -> int:
    """How many answer. One that was accepted by the kernel alone never does."""
    waiting = iter(crowd)

    async def one() -> bool:
        call = next(waiting)
        return not call.transport.is_closing() and await call.start(asked) == 200

    return sum(await _each(one, len(crowd)))


async def _each(act: Callable[[], Awaitable[T]], times: int) -> list[T]:
    """What came of it within 30 s, a hundred at once."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one() -> T:
        async with turn:
            return await act()

    tasks = [asyncio.create_task(one()) for _ in range(times)]
    done, late = await asyncio.wait(tasks, timeout=_PATIENCE_S)
    for task in late:
        task.cancel()
    return [task.result() for task in done]
