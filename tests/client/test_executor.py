"""``EmbeddingExecutor`` over real engines."""

from __future__ import annotations

import asyncio

import pytest

from sage_inference.client.executor import (
    EmbeddingExecutor,
    EmbeddingExecutorError,
    EmbeddingInstanceUnavailableError,
    EmbeddingRequestError,
    EmbeddingTimeoutError,
)
from tests.support.gateway import free_port
from tests.support.rogue import RogueEngine, ok, raw
from tests.support.simulators import SimulatedEngine


def test_one_request_or_several_give_the_same_vectors(tei: SimulatedEngine) -> None:
    async def main() -> None:
        async with EmbeddingExecutor() as executor:
            texts = [f"text {number}" for number in range(30)]
            one = await executor.execute_embedding(texts, "simulated-embedding", tei.host, tei.port)
            several = await executor.execute_embedding_batch(
                texts, host=tei.host, port=tei.port, batch_size=7
            )
            assert len(one.embeddings) == 30
            assert several.embeddings == one.embeddings
            assert several.usage == one.usage
            assert one.model == "simulated-embedding"
            metrics = executor.get_metrics()
            assert (metrics.total_requests, metrics.failed_requests, metrics.total_texts) == (2, 0, 60)
            assert metrics.total_tokens == 2 * one.usage["total_tokens"]
            assert metrics.avg_latency_ms > 0
            assert await executor.health_check(tei.host, tei.port)
            assert not await executor.health_check(port=free_port())

    asyncio.run(main())


def test_failures_are_of_three_kinds() -> None:
    async def failing(port: int, error: type[EmbeddingExecutorError]) -> None:
        async with EmbeddingExecutor(timeout=0.3, max_retries=0) as executor:
            with pytest.raises(error):
                await executor.execute_embedding(["a"], port=port)
            assert executor.get_metrics().failed_requests == 1

    asyncio.run(failing(free_port(), EmbeddingInstanceUnavailableError))
    with RogueEngine(raw(b"", then="silent")) as silent:
        asyncio.run(failing(silent.port, EmbeddingTimeoutError))
    with RogueEngine(ok("{}", status="400 Bad Request")) as refusing:
        asyncio.run(failing(refusing.port, EmbeddingRequestError))
