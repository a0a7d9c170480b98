"""Callers of embeddings of every size and form: each vector is compared, bit by bit, with the one of its text."""

from __future__ import annotations

import base64
import json
import random
from array import array
from collections.abc import Iterator
from typing import Any

from sage_inference.simulator import vectors
from tests.bench.soak.wire import Answer, Connection, post
from tests.bench.soak.world import World

MODEL = "simulated-embedding"
_DIMENSION = 384
_SIZES = (1, 1, 1, 1, 2, 3, 8, 20, 33, 70)
_WORDS = "gates are open at night while the town sleeps and every text has a vector of its own".split()
_FORMS = ("float", "base64", None, "native")


async def caller(world: World, rng: random.Random) -> None:
    """One request after the other."""
    async with Connection(world.port) as connection:
        while not world.over.is_set():
            texts = [_text(rng) for _ in range(rng.choice(_SIZES))]
            answer = await connection.ask(request(texts, rng.choice(_FORMS)))
            judge(world, texts, answer)
            await world.rest(rng)


def request(texts: list[str], form: str | None) -> bytes:
    """``native`` is TEI's own route; None leaves the format to the gateway's default."""
    if form == "native":
        return post("/embed", json.dumps({"inputs": texts}).encode())
    given: dict[str, Any] = {"model": MODEL, "input": texts[0] if len(texts) == 1 else texts}
    if form is not None:
        given["encoding_format"] = form
    return post("/v1/embeddings", json.dumps(given).encode())


def judge(world: World, texts: list[str], answer: Answer) -> None:
    if answer.status != 200 or not answer.complete:
        said = bytes(answer.body[-200:])
        world.found_lost(f"{len(texts)} texts: {answer.status} {answer.error} {said!r}")
        return
    try:
        given = list(_vectors(json.loads(answer.body)))
    except (ValueError, LookupError, TypeError) as error:
        world.found_wrong(f"{len(texts)} texts: no list of vectors: {error!r}")
        return
    expected = [vectors.embed(MODEL, text, _DIMENSION) for text in texts]
    if given != expected:
        right = sum(one == other for one, other in zip(given, expected, strict=False))
        world.found_wrong(f"{right} of {len(texts)} vectors right, {len(given)} given")
        return
    world.counts["vectors"] += len(texts)
    world.counts["embedding requests"] += 1


def _vectors(document: Any) -> Iterator[bytes]:
    if isinstance(document, list):
        entries = document
    else:
        data = sorted(document["data"], key=lambda entry: int(entry["index"]))
        entries = [entry["embedding"] for entry in data]
    for entry in entries:
        yield base64.b64decode(entry) if isinstance(entry, str) else array("f", entry).tobytes()


def _text(rng: random.Random) -> str:
    """No two begin alike, but for a few that many callers ask for at once."""
    number = rng.randrange(8) if rng.random() < 0.1 else rng.getrandbits(40)
    count = 3 if number < 8 else rng.randrange(1, 25)
    words = random.Random(number).choices(_WORDS, k=count)
    return " ".join([f"{number:x}", *words])
