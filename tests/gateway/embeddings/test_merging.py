"""Embedding requests of many callers through a real gateway to simulated engines."""

from __future__ import annotations

import base64
import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import InstanceSettings
from sage_inference.simulator import vectors
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

MODEL = "simulated-embedding"
DIMENSION = 16


@pytest.fixture(scope="module")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", "--speed", "1", "--dimension", str(DIMENSION)) as engine:
        yield engine


@pytest.fixture
def door(tei: SimulatedEngine) -> Iterator[InProcess]:
    with gateway(InstanceSettings(url=tei.url, name="tei")) as running:
        yield running


def expected(text: str) -> bytes:
    return vectors.embed(MODEL, text, DIMENSION)


def packed(vector: Any) -> bytes:
    if isinstance(vector, str):
        return base64.b64decode(vector)
    return struct.pack(f"<{len(vector)}f", *vector)


def embed(port: int, **body: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    return httpx.post(url, json={"model": MODEL, **body}, trust_env=False, timeout=30)


def vectors_of(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [packed(item["embedding"]) for item in data]


def at_once(*calls: Any) -> list[Any]:
    """All at the same time, each on its own connection."""
    barrier = threading.Barrier(len(calls))

    def run(call: Any) -> Any:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_a_single_request_passes_byte_for_byte(tei: SimulatedEngine, door: InProcess) -> None:
    answer = embed(door.port, input=["hello world", "a"], user="u")
    assert vectors_of(answer) == [expected("hello world"), expected("a")]
    assert tei.requests(1)[0].json() == {"model": MODEL, "input": ["hello world", "a"], "user": "u"}
    assert answer.headers["x-sage-instance"] == "tei"
    assert "x-compute-tokens" in answer.headers  # the engine's own answer, as it came


def test_many_callers_share_calls_and_each_gets_its_own_vectors(
    tei: SimulatedEngine, door: InProcess
) -> None:
    before = tei.stats()["calls"]
    inputs = [[f"text {caller} {i}" for i in range(1 + caller % 5)] for caller in range(32)]
    forms = ["float", "base64"]
    calls = [
        lambda texts=texts, n=n: embed(door.port, input=texts, encoding_format=forms[n % 2])
        for n, texts in enumerate(inputs)
    ]
    tei.faults(delay_ms=30)
    answers = at_once(*calls)
    tei.heal()
    for n, (texts, answer) in enumerate(zip(inputs, answers, strict=True)):
        assert vectors_of(answer) == [expected(text) for text in texts]
        assert all(isinstance(i["embedding"], [list, str][n % 2]) for i in answer.json()["data"])
    assert tei.stats()["calls"] - before < 16
    counters = door.ask(lambda r: r.gateway.embeddings.aggregator.counters)
    assert counters.texts == sum(map(len, inputs))


def test_ten_thousand_texts_in_one_request(tei: SimulatedEngine, door: InProcess) -> None:
    texts = [f"number {i}" for i in range(10000)]
    answer = embed(door.port, input=texts, encoding_format="base64")
    assert vectors_of(answer) == [expected(text) for text in texts]


def test_one_bad_text_fails_its_own_caller_alone(door: InProcess, tei: SimulatedEngine) -> None:
    def native(text: str) -> httpx.Response:
        body = {"inputs": text, "truncate": False}
        return httpx.post(f"{door.url}/embed", json=body, trust_env=False, timeout=30)

    tei.faults(delay_ms=30)
    answers = at_once(*(lambda n=n: native("long " * 700 if n == 17 else f"text {n}") for n in range(40)))
    tei.heal()
    for n, answer in enumerate(answers):
        if n == 17:
            assert answer.status_code == 422
            assert "must have less than 512 tokens" in answer.json()["error"]
        else:
            assert [packed(v) for v in answer.json()] == [expected(f"text {n}")]


def test_native_callers_share_calls_with_openai_callers(door: InProcess, tei: SimulatedEngine) -> None:
    before = tei.stats()["calls"]
    tei.faults(delay_ms=30)

    def native(n: int) -> list[bytes]:
        answer = httpx.post(f"{door.url}/embed", json={"inputs": [f"t {n}", "u"]}, trust_env=False)
        return [packed(v) for v in answer.json()]

    got = at_once(
        *(lambda n=n: native(n) for n in range(10)),
        *(lambda n=n: vectors_of(embed(door.port, input=[f"t {n}", "u"])) for n in range(10)),
    )
    tei.heal()
    for n in range(10):
        assert got[n] == got[n + 10] == [expected(f"t {n}"), expected("u")]
    assert tei.stats()["calls"] - before <= 5
    assert json.dumps(door.ask(lambda r: r.gateway.in_flight)) == "0"
