"""Callers that leave: how long until the engine knows, and what they leave behind."""

from __future__ import annotations

import asyncio
import time

from tests.bench.figures import median
from tests.bench.load.asking import engine_questions, status_questions, until
from tests.bench.load.connection import Call, Result, connect, request
from tests.bench.mock.orders import Orders

_PATIENCE_S = 3.0
_LONG_MS = 600_000
_PAUSE_S = 0.02
_ENOUGH = 5


def _orders(streamed: bool, tag: str) -> Orders:
    if streamed:
        return Orders(chunks=100_000, gap_us=10_000, tag=tag)
    return Orders(first_ms=_LONG_MS, tag=tag)


async def run_in_turn(url: str, model: str, engine_url: str, streamed: bool, times: int) -> Result:
    """One caller after another leaves, within its stream or before the first byte.

    ``unheard``: departures that did not reach the engine within 3 s; after 5 of them we give up.
    """
    seen, run = await engine_questions(engine_url), time.monotonic_ns()
    taken_ms: list[float] = []
    unheard = 0
    for number in range(times):
        tag = f"{run}x{number}"
        call = await connect(url, Call)
        call.start(request(url, "/v1/chat/completions", _orders(streamed, tag).body(model)))
        if streamed:
            await call.first_byte.wait()

        async def arrived(tag: str = tag) -> bool:
            return tag in (await seen())["arrived"]

        async def heard(tag: str = tag) -> bool:
            return tag in (await seen())["left"]

        await until(arrived, _PATIENCE_S)
        left_ns = time.monotonic_ns()
        call.transport.close()
        # Our questions must not take the core from those who carry the news.
        await asyncio.sleep(_PAUSE_S)
        if await until(heard, _PATIENCE_S):
            taken_ms.append(((await seen())["left"][tag] - left_ns) / 1e6)
        else:
            unheard += 1
            if unheard == _ENOUGH:
                break
    seen.close()
    return {"median_ms": median(taken_ms), "max_ms": max(taken_ms, default=None), "unheard": unheard}


async def run_at_once(url: str, model: str, engine_url: str, callers: int, has_status: bool) -> Result:
    """All leave in the same moment, half of them within a stream, half before the first byte.

    ``left_at_engine``, ``left_in_flight``: what the engine and the gateway's status still have after 3 s.
    """
    seen, run = await engine_questions(engine_url), time.monotonic_ns()
    calls = [await connect(url, Call) for _ in range(callers)]
    for number, call in enumerate(calls):
        body = _orders(number % 2 == 0, f"{run}x{number}").body(model)
        call.start(request(url, "/v1/chat/completions", body))

    async def count(which: str) -> int:
        # Another gateway's callers may be there still.
        return sum(tag.startswith(f"{run}x") for tag in (await seen())[which])

    async def all_there() -> bool:
        return await count("arrived") == callers

    async def all_left() -> bool:
        return await count("left") == callers

    await until(all_there, 10.0)
    for call in calls:
        call.transport.close()
    await until(all_left, _PATIENCE_S)
    arrived = await count("arrived")
    result: Result = {"arrived": arrived, "left_at_engine": arrived - await count("left")}
    if has_status:
        result["left_in_flight"] = await _in_flight(url)
    seen.close()
    return result


async def _in_flight(url: str) -> float:
    """By the gateway's own count: in all, queued, and at its instances."""
    status = await status_questions(url)

    async def count() -> int:
        told = await status()
        at_instances = sum(instance["in_flight"] for instance in told["instances"])
        return int(told["requests"]["in_flight"] + told["requests"]["queued"] + at_instances)

    async def none() -> bool:
        return await count() == 0

    await until(none, _PATIENCE_S)
    left = await count()
    status.close()
    return left
