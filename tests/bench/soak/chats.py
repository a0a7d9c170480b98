"""Callers of chats, streamed and plain, quick and slow readers: each text is compared with the engine's."""

from __future__ import annotations

import random
import time

from tests.bench.outage.heard import Ask, End, Heard
from tests.bench.soak.wire import Connection, post
from tests.bench.soak.world import World

_PROMPT_WORDS = (5, 40, 300, 1500)
_OUTPUT_TOKENS = (1, 8, 40, 120)
_SLOW_TOKENS = 800  # far more than the sockets' buffers hold
_NUMBERS = 1 << 40


async def caller(world: World, rng: random.Random, *, slow: bool = False) -> None:
    """One chat after the other, over one connection as long as it lasts."""
    async with Connection(world.port, slow=slow) as connection:
        while not world.over.is_set():
            streamed = slow or rng.random() < 0.6
            tokens = _SLOW_TOKENS if slow else rng.choice(_OUTPUT_TOKENS)
            ask = Ask(rng.randrange(_NUMBERS), streamed, rng.choice(_PROMPT_WORDS), tokens)
            began = time.monotonic()
            answer = await connection.ask(post("/v1/chat/completions", ask.document()))
            heard = Heard(ask, began, status=answer.status, body=answer.body, complete=answer.complete)
            judge(world, heard, answer.instance, answer.error)
            await world.rest(rng)


def judge(world: World, heard: Heard, instance: str, error: str) -> None:
    kind = "streams" if heard.ask.streamed else "plain chats"
    about = f"{kind[:-1]} {heard.ask.number} of {instance or 'nobody'}: {heard.status} {error}"
    end = heard.end
    if end is End.WHOLE:
        world.counts[kind] += 1
    elif end is End.FALSE:
        world.found_wrong(f"{about}; looks whole and is not: {bytes(heard.body[-200:])!r}")
    elif heard.status != 200 or heard.complete or not world.was_killed(instance, heard.due):
        world.found_lost(f"{about}; {bytes(heard.body[-200:])!r}")
    elif end is End.CUT and heard.ask.streamed and b'"error"' not in heard.body:
        world.found_lost(f"{about}; cut without an error event")
    else:
        world.counts["cut by a kill"] += 1
