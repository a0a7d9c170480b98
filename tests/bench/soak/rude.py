"""Callers that leave in the middle, and callers that send junk."""

from __future__ import annotations

import json
import random

from tests.bench.outage.heard import MODEL as LLM
from tests.bench.soak.vectors import MODEL, request
from tests.bench.soak.wire import Answer, Connection, post
from tests.bench.soak.world import World

_CHAT = "/v1/chat/completions"


async def leaver(world: World, rng: random.Random) -> None:
    """Send a request, or a part of one, and leave within a third of a second."""
    while not world.over.is_set():
        async with Connection(world.port) as connection:
            whole = _wanted(rng)
            part = whole if rng.random() < 0.8 else whole[: rng.randrange(1, len(whole))]
            try:
                await connection.send(part)
            except OSError as error:
                world.found_lost(f"a caller that leaves could not connect: {error!r}")
            await world.pause(rng.random() / 3)
        await world.rest(rng)
        world.counts["left"] += 1


async def junk(world: World, rng: random.Random) -> None:
    """Send what no server should take. The answer must be a 4xx, or the connection must be closed."""
    while not world.over.is_set():
        what, sent = rng.choice(_JUNK)
        if not sent:
            sent = rng.randbytes(rng.randrange(1, 2000)) + b"\r\n\r\n"
        async with Connection(world.port) as connection:
            answer = await connection.ask(sent)
        judge(world, what, answer)
        await world.rest(rng)


def judge(world: World, what: str, answer: Answer) -> None:
    if answer.error.startswith("no end"):
        world.found_lost(f"{what}: neither an answer nor a closed connection")
    elif answer.status and not 400 <= answer.status < 500:
        world.found_wrong(f"{what}: answered {answer.status}")
    else:
        world.counts["junk refused"] += 1


def _wanted(rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        texts = [f"{rng.getrandbits(40):x} somebody leaves" for _ in range(rng.choice((1, 5, 50)))]
        return request(texts, rng.choice(("float", "base64", "native")))
    body = {
        "model": LLM,
        "messages": [
            {"role": "user", "content": f"{rng.getrandbits(40):x} " + "words " * rng.randrange(900)}
        ],
        "max_tokens": 200,
        "ignore_eos": True,
        "stream": rng.random() < 0.6,
    }
    return post(_CHAT, json.dumps(body).encode())


# Requests by name. An empty one stands for random bytes.
_JUNK: tuple[tuple[str, bytes], ...] = (
    ("random bytes", b""),
    ("a body that is no JSON", post(_CHAT, b'{"model": ')),
    ("a body nested too deep", post(_CHAT, b'{"model":"m","messages":' + b"[" * 20000)),
    ("a body that is a list", post(_CHAT, b"[]")),
    ("a model that nobody serves", post(_CHAT, b'{"model":"none","messages":[]}')),
    (
        "token ids that are no numbers",
        post("/v1/embeddings", b'{"model":"%b","input":[{}]}' % MODEL.encode()),
    ),
    ("an empty input", post("/v1/embeddings", b'{"model":"%b","input":[]}' % MODEL.encode())),
    (
        "two lengths",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    ),
    ("a head without an end", b"GET /health HTTP/1.1\r\nx: " + b"y" * 70000),
    ("a method that there is not", b"BREW /coffee HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    ("a route that there is not", b"GET /coffee HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    (
        "a chunk of no size",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ),
    ("TLS", bytes.fromhex("16030100a5010000a10303") + b"\x00" * 160),
)
