"""Many callers of all kinds at once, some of whom leave: every vector belongs to its text, and none is lost."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass

import httpx

from sage_inference.config.settings import InstanceSettings
from tests.gateway.embeddings.callers import DIMENSION, MODEL, expected, vectors_of
from tests.support.inprocess import gateway
from tests.support.simulators import simulated_engine

CALLERS, REQUESTS, LEAVE = 60, 6, 0.15
SIZE = ("--dimension", str(DIMENSION), "--model", MODEL)


@dataclass
class Seen:
    vectors: int = 0
    left: int = 0


async def _caller(client: httpx.AsyncClient, rng: random.Random, seen: Seen) -> None:
    for _ in range(REQUESTS):
        count = rng.choice([1, 1, 2, 5, 9, 40])
        # Some texts are many callers' at the same time.
        texts = [f"text {rng.randrange(3000)}" + " more" * rng.randrange(30) for _ in range(count)]
        native = rng.random() < 0.3
        body: dict[str, object] = {"inputs": texts} if native else {"model": MODEL, "input": texts}
        if not native and rng.random() < 0.6:
            body["encoding_format"] = rng.choice(["base64", "float"])
        path = "/embed" if native else "/v1/embeddings"
        request = asyncio.ensure_future(client.post(path, json=body))
        if rng.random() < LEAVE:
            await asyncio.sleep(rng.random() * 0.02)
            if not request.done():
                request.cancel()
                seen.left += 1
                continue
        assert vectors_of(await request) == [expected(text) for text in texts], json.dumps(body)[:200]
        seen.vectors += count


def test_every_vector_belongs_to_its_text() -> None:
    seen = Seen()

    async def everyone(url: str) -> None:
        limits = httpx.Limits(max_connections=CALLERS)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
            await asyncio.gather(*(_caller(client, random.Random(n), seen) for n in range(CALLERS)))

    with (
        simulated_engine("tei", *SIZE) as one,
        simulated_engine("tei", *SIZE, "--max-client-batch-size", "8") as other,
        gateway(
            InstanceSettings(url=one.url, name="one"), InstanceSettings(url=other.url, name="other")
        ) as door,
    ):
        asyncio.run(everyone(door.url))
        service = door.running.gateway.embeddings
        door.until(lambda running: running.gateway.in_flight == 0)
        assert (service.aggregator.jobs, service.aggregator.size, service.aggregator.lanes) == (0, 0, {})
        assert all(stats["calls"] for stats in (one.stats(), other.stats()))
    assert seen.vectors > 1000
    assert seen.left > 0
