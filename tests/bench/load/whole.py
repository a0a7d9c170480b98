"""Many streams at once, every byte of each compared with what the engine was to send."""

from __future__ import annotations

import asyncio

from tests.bench.load.connection import Call, Result, connect, mark, request
from tests.bench.mock.frames import whole_body
from tests.bench.mock.orders import Orders

_CHUNKS = 16
_GAP_US = 500_000
_MARK_S = 0.25


async def run(url: str, model: str, streams: int) -> Result:
    """Marks moments at which all streams are open. ``whole``: those received complete and unchanged."""
    calls = [await connect(url, Call) for _ in range(streams)]
    answers = []
    for number, call in enumerate(calls):
        body = Orders(chunks=_CHUNKS, gap_us=_GAP_US, tag=f"s{number}").body(model)
        answers.append(call.start(request(url, "/v1/chat/completions", body)))
    await asyncio.gather(*(call.first_byte.wait() for call in calls))
    at_once = sum(not answer.done() for answer in answers)
    while not any(answer.done() for answer in answers):
        mark()
        await asyncio.sleep(_MARK_S)
    statuses = await asyncio.gather(*answers)
    whole = sum(
        status == 200 and call.body == whole_body(f"s{number}", _CHUNKS)
        for number, (call, status) in enumerate(zip(calls, statuses, strict=True))
    )
    return {"at_once": at_once, "whole": whole}
