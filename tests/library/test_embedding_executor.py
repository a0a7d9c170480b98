"""The executor for Python callers, on a simulated engine."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.library.embedding_executor import (
    EmbeddingExecutor,
    EmbeddingExecutorError,
    EmbeddingInstanceUnavailableError,
    EmbeddingRequestError,
    EmbeddingTimeoutError,
)
from sage_inference.library.requests import RequestMetadata
from sage_inference.simulator import vectors
from sage_inference.types import ExecutionInstance, RequestType
from tests.support.gateway import free_port
from tests.support.probed import ProbedEngine, well
from tests.support.simulators import SimulatedEngine, simulated_engine

MODEL = "simulated-embedding"


@pytest.fixture(scope="module")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", "--speed", "instant", "--dimension", "8") as engine:
        yield engine


@pytest.fixture
def instance(tei: SimulatedEngine) -> ExecutionInstance:
    tei.heal()
    return ExecutionInstance("tei", tei.host, tei.port, model_name=MODEL)


def _expected(text: str) -> list[float]:
    return vectors.floats(vectors.embed(MODEL, text, 8))


def test_texts_beyond_a_call_are_cut_and_come_back_in_order(instance: ExecutionInstance) -> None:
    async def run() -> None:
        async with EmbeddingExecutor() as executor:
            assert await executor.health_check(instance)
            texts = [f"text {n}" for n in range(70)]
            result = await executor.execute_embedding(texts, instance, request_id="r")
            assert result.embeddings == [_expected(text) for text in texts]
            metrics = executor.get_metrics()
            assert (metrics.requests, metrics.texts, metrics.calls, metrics.failures) == (1, 70, 3, 0)

    asyncio.run(run())


def test_requests_share_calls_and_keep_their_own(tei: SimulatedEngine, instance: ExecutionInstance) -> None:
    requests = [
        RequestMetadata(f"r{n}", RequestType.EMBEDDING, MODEL, embedding_texts=[f"{n} {i}" for i in range(n)])
        for n in range(6)
    ]

    async def run() -> None:
        async with EmbeddingExecutor() as executor:
            before = tei.stats()
            results = await executor.execute_embedding_batch(requests, instance)
            after = tei.stats()
            assert [result.request_id for result in results] == [f"r{n}" for n in range(6)]
            for n, result in enumerate(results):
                assert result.embeddings == [_expected(f"{n} {i}") for i in range(n)]
            assert after["calls"] - before["calls"] == 1
            used = after["prompt_tokens"] - before["prompt_tokens"]
            assert sum(result.prompt_tokens for result in results) == used

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 503}, EmbeddingInstanceUnavailableError),
        ({"status": 400}, EmbeddingRequestError),
        ({"reset_before_response": True}, EmbeddingInstanceUnavailableError),
        ({"hang": True}, EmbeddingTimeoutError),
    ],
    ids=["503", "400", "reset", "silence"],
)
def test_a_failure_has_a_type(
    tei: SimulatedEngine,
    instance: ExecutionInstance,
    fault: dict[str, object],
    error: type[EmbeddingExecutorError],
) -> None:
    tei.faults(**fault)

    async def run() -> None:
        async with EmbeddingExecutor(timeout_s=0.5) as executor:
            with pytest.raises(error, match="instance tei"):
                await executor.execute_embedding(["x"], instance)
            assert executor.get_metrics().failures == 1

    asyncio.run(run())


def test_one_that_is_not_there_is_unhealthy_and_unavailable() -> None:
    nobody = ExecutionInstance("gone", "127.0.0.1", free_port(), model_name=MODEL)

    async def run() -> None:
        async with EmbeddingExecutor() as executor:
            assert not await executor.health_check(nobody)
            with pytest.raises(EmbeddingInstanceUnavailableError):
                await executor.execute_embedding(["x"], nobody)

    asyncio.run(run())


def test_calls_never_fail_because_the_engine_closes_the_connection_of_the_one_before() -> None:
    """Each comes as that would happen, give or take two milliseconds."""

    async def calls(port: int) -> None:
        rng = random.Random(7)
        instance = ExecutionInstance("e", "127.0.0.1", port, model_name="m")
        async with EmbeddingExecutor() as executor:
            for _ in range(100):
                assert await executor.health_check(instance)
                await asyncio.sleep(0.01 + rng.uniform(-0.002, 0.002))

    def closes(sock: socket.socket) -> bool:
        well(sock)
        time.sleep(0.01)
        return False

    with ProbedEngine(closes) as engine:
        asyncio.run(calls(engine.port))


def test_an_instance_at_a_unix_socket_is_asked_there(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    async def run() -> None:
        instance = ExecutionInstance("tei", "localhost", 80, model_name=MODEL, uds=path)
        assert instance.base_url == f"unix:{path}"
        async with EmbeddingExecutor() as executor:
            assert not await executor.health_check(instance)
            with simulated_engine("tei", "--uds", path, "--speed", "instant", "--dimension", "8"):
                assert await executor.health_check(instance)
                found = [await executor.execute_embedding([text], instance) for text in "ab"]
            with pytest.raises(
                EmbeddingInstanceUnavailableError, match=f"no server listens on the socket {path}"
            ):
                await executor.execute_embedding(["c"], instance)
        assert [one.embeddings for one in found] == [[_expected("a")], [_expected("b")]]

    asyncio.run(run())
