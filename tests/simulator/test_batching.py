"""Continuous batching and the encoder's batches, by the event loop's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sage_inference.simulator.clock import Clock
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.llm import LLM, Limits, Observers
from sage_inference.simulator.prefix_cache import block_keys
from sage_inference.simulator.timing import front_end_ms, pooling_step_ms
from sage_inference.simulator.vllm.front_end import FrontEnd

FAST = 50.0


@asynccontextmanager
async def decoder(limits: Limits, observers: Observers | None = None) -> AsyncIterator[LLM]:
    llm = LLM(limits, Clock(FAST), observers)
    task = asyncio.create_task(llm.run())
    try:
        yield llm
    finally:
        task.cancel()


def test_more_sequences_than_seats_wait_and_all_finish() -> None:
    async def scenario() -> None:
        async with decoder(Limits(max_num_seqs=2)) as llm:
            generations = [llm.submit(10, 5) for _ in range(5)]
            await generations[0].reach(1)
            assert (len(llm.running), len(llm.waiting)) == (2, 3)
            for one in generations:
                await one.reach(5)
            assert llm.generated_tokens == 25

    asyncio.run(scenario())


def test_long_prompt_is_computed_in_chunks_between_tokens_of_others() -> None:
    steps: list[float] = []

    async def scenario() -> None:
        async with decoder(Limits(max_num_batched_tokens=100), Observers(step_tokens=steps.append)) as llm:
            first = llm.submit(10, 50)
            await first.reach(1)
            late = llm.submit(250, 1)
            await late.reach(1)
            assert first.produced >= 3
            assert llm.prompt_tokens == 260

    asyncio.run(scenario())
    assert max(steps) == 100


def test_prompt_that_does_not_fit_waits_for_the_cache() -> None:
    async def scenario() -> None:
        async with decoder(Limits(kv_cache_tokens=100)) as llm:
            first, second = llm.submit(60, 5), llm.submit(60, 5)
            await first.reach(1)
            assert list(llm.waiting) == [second]
            assert llm.kv_usage == pytest.approx(0.61)
            await second.reach(5)
            assert first.done

    asyncio.run(scenario())


def test_aborted_sequence_leaves_its_seat_at_once() -> None:
    async def scenario() -> None:
        async with decoder(Limits(max_num_seqs=1)) as llm:
            first, second = llm.submit(10, 10_000), llm.submit(10, 2)
            await first.reach(1)
            llm.abort(first)
            await second.reach(2)
            assert not first.done

    asyncio.run(scenario())


def test_second_prompt_with_the_same_beginning_computes_only_the_rest() -> None:
    async def scenario() -> None:
        async with decoder(Limits(block_size=4)) as llm:
            shared = ["a", "b", "c", "d", "e", "f", "g", "h"]
            first = llm.submit(8, 1, block_keys(shared, 4))
            await first.reach(1)
            longer = llm.submit(10, 1, block_keys([*shared, "i", "j"], 4))
            same = llm.submit(8, 1, block_keys(shared, 4))
            other = llm.submit(8, 1, block_keys(["x", *shared[1:]], 4))
            for one in (longer, same, other):
                await one.reach(1)
            # Of an identical prompt the last block is computed again: its last token makes the first new one.
            assert (longer.cached, same.cached, other.cached) == (8, 4, 0)
            assert (llm.cache_queries, llm.cache_hits) == (34, 12)

    asyncio.run(scenario())


def test_instant_clock_finishes_without_a_running_loop_of_steps() -> None:
    async def scenario() -> int:
        return await LLM(Limits(), Clock(0)).submit(10, 500).reach(500)

    assert asyncio.run(scenario()) == 500


def test_waiting_texts_of_all_callers_share_a_batch() -> None:
    batches: list[tuple[int, int]] = []

    async def scenario() -> None:
        encoder = Encoder(100, Clock(FAST), lambda texts, tokens: batches.append((texts, tokens)))
        task = asyncio.create_task(encoder.run())
        calls = await asyncio.gather(*(encoder.encode([30, 30]) for _ in range(3)))
        task.cancel()
        assert all(call.ran_s > 0 for call in calls)

    asyncio.run(scenario())
    assert batches == [(3, 90), (3, 90)]


def test_texts_of_a_caller_who_left_are_not_computed() -> None:
    batches: list[tuple[int, int]] = []

    async def scenario() -> None:
        encoder = Encoder(30, Clock(FAST), lambda texts, tokens: batches.append((texts, tokens)))
        leaver = asyncio.create_task(encoder.encode([10] * 5))
        await asyncio.sleep(0)
        leaver.cancel()
        stayer = asyncio.create_task(encoder.encode([20]))
        await asyncio.sleep(0)
        task = asyncio.create_task(encoder.run())
        await stayer
        task.cancel()

    asyncio.run(scenario())
    assert batches == [(1, 20)]


def test_calls_pass_vllms_front_end_one_at_a_time_beside_the_gpu() -> None:
    texts = [100] * 8

    async def timed(calls: int) -> float:
        encoder = Encoder(8192, Clock(5), step_ms=pooling_step_ms)
        front_end = FrontEnd(encoder, Clock(5))
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(encoder.run())
        began = loop.time()
        await asyncio.gather(*(front_end.encode(texts) for _ in range(calls)))
        task.cancel()
        return 1000 * 5 * (loop.time() - began)

    of_a_call = sum(front_end_ms(len(texts), sum(texts)))
    alone, many = asyncio.run(timed(1)), asyncio.run(timed(16))
    assert alone > of_a_call + pooling_step_ms(len(texts), sum(texts))
    assert 16 * of_a_call < many < 16 * alone
