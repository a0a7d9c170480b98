"""A simulated vLLM in development mode sleeps as vLLM's server does: healthy, and silent until it wakes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm", "--dev-mode", "--runner", "mixed", "--speed", "instant") as running:
        yield running


@pytest.fixture
def client(engine: SimulatedEngine) -> Iterator[httpx.Client]:
    with engine.client() as client:
        yield client
        client.post("/wake_up")


def state(client: httpx.Client) -> tuple[Any, dict[str, float]]:
    lines = [line for line in client.get("/metrics").text.splitlines() if "engine_sleep_state{" in line]
    values = {line.split('sleep_state="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}
    return client.get("/is_sleeping").json(), values


AWAKE = ({"is_sleeping": False}, {"awake": 1, "weights_offloaded": 0, "discard_all": 0})


@pytest.mark.parametrize(("level", "name"), [("1", "weights_offloaded"), ("2", "discard_all")])
def test_it_says_how_deep_it_sleeps(client: httpx.Client, level: str, name: str) -> None:
    assert state(client) == AWAKE
    answer = client.post("/sleep", params={"level": level})
    assert (answer.status_code, answer.content) == (200, b"")
    values = {"awake": 0, "weights_offloaded": 0, "discard_all": 0} | {name: 1}
    assert state(client) == ({"is_sleeping": True}, values)
    assert client.get("/health").status_code == 200
    assert client.post("/wake_up").content == b""
    assert state(client) == AWAKE


def test_it_sleeps_until_all_of_it_is_awake(client: httpx.Client) -> None:
    client.post("/sleep")
    client.post("/wake_up", params={"tags": ["weights"]})
    assert client.get("/is_sleeping").json() == {"is_sleeping": True}
    client.post("/wake_up", params={"tags": ["kv_cache"]})
    assert client.get("/is_sleeping").json() == {"is_sleeping": False}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_requests_wait_until_it_wakes(engine: SimulatedEngine, client: httpx.Client, path: str) -> None:
    body = {"model": engine.model, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    client.post("/sleep")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(client.post, path, json=body)
        engine.wait(running=1)
        assert not asked.done()
        client.post("/wake_up")
        assert asked.result(10).status_code == 200


def test_without_development_mode_only_the_metric_is_there() -> None:
    with simulated_engine("vllm") as engine, engine.client() as client:
        assert client.post("/sleep").status_code == client.get("/is_sleeping").status_code == 404
        assert 'sleep_state="awake"} 1.0' in client.get("/metrics").text
