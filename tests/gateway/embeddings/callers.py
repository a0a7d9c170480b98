"""Callers of embeddings, and an engine that is held still while they come."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from sage_inference.control_plane.embedding import Batcher
from sage_inference.simulator import vectors
from tests.support.inprocess import InProcess
from tests.support.simulators import SimulatedEngine

MODEL = "simulated-embedding"
DIMENSION = 16
T = TypeVar("T")


def expected(text: str) -> bytes:
    return vectors.embed(MODEL, text, DIMENSION)


def packed(vector: Any) -> bytes:
    if isinstance(vector, str):
        return base64.b64decode(vector)
    return struct.pack(f"<{len(vector)}f", *vector)


def embed(door: InProcess, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{door.url}/v1/embeddings", json={"model": MODEL, **body}, trust_env=False, verify=False, timeout=30
    )


def native(door: InProcess, **body: Any) -> httpx.Response:
    return httpx.post(f"{door.url}/embed", json=body, trust_env=False, verify=False, timeout=30)


def vectors_of(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    document = answer.json()
    if isinstance(document, list):
        return [packed(vector) for vector in document]
    assert [item["index"] for item in document["data"]] == list(range(len(document["data"])))
    return [packed(item["embedding"]) for item in document["data"]]


def batcher(door: InProcess) -> Batcher:
    return door.running.gateway.embeddings.batcher


def meanwhile(engine: SimulatedEngine, door: InProcess, *calls: Callable[[], T]) -> list[T]:
    """All at once, at an engine that answers none before the gateway has all of them."""
    engine.pause()
    with ThreadPoolExecutor(len(calls)) as pool:
        results = [pool.submit(call) for call in calls]
        try:
            door.until(lambda running: running.gateway.embeddings.batcher.jobs == len(calls))
        finally:
            engine.resume()
        return [result.result(60) for result in results]
