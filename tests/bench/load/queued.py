"""Callers that leave the gateway's queue: how long until their place is free."""

from __future__ import annotations

import time

from tests.bench.figures import median
from tests.bench.load.asking import engine_questions, status_questions, until
from tests.bench.load.connection import Call, Result, connect, request
from tests.bench.mock.orders import Orders

_PATIENCE_S = 3.0
_HOLDER = Orders(chunks=100_000, gap_us=100_000, tag="holder")


async def run(url: str, model: str, engine_url: str, times: int) -> Result:
    """The engine takes one request at a time, and one stream holds it: all others queue.

    The time includes the wait for the status that shows it. ``reached_engine``: departed callers' requests
    that were sent all the same.
    """
    seen, status = await engine_questions(engine_url), await status_questions(url)
    run = time.monotonic_ns()
    holder = await connect(url, Call)
    holder.start(request(url, "/v1/chat/completions", _HOLDER.body(model)))
    await holder.first_byte.wait()
    taken_ms: list[float] = []
    unheard = 0

    async def one_waits() -> bool:
        return int((await status())["requests"]["queued"]) == 1

    async def none_waits() -> bool:
        return int((await status())["requests"]["queued"]) == 0

    for number in range(times):
        call = await connect(url, Call)
        body = Orders(tag=f"{run}x{number}").body(model)
        call.start(request(url, "/v1/chat/completions", body))
        unheard += not await until(one_waits, _PATIENCE_S)
        left = time.monotonic()
        call.transport.close()
        unheard += not await until(none_waits, _PATIENCE_S)
        taken_ms.append((time.monotonic() - left) * 1e3)
    holder.transport.close()
    reached = sum(tag.startswith(f"{run}x") for tag in (await seen())["arrived"])
    seen.close()
    status.close()
    return {
        "median_ms": median(taken_ms),
        "max_ms": max(taken_ms, default=None),
        "unheard": unheard,
        "reached_engine": reached,
    }
