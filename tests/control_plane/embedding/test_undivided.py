"""A request whose texts need not be told apart travels as one, until somebody wants one of them too."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.embedding import AggregationRules, CallLimits
from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from tests.control_plane.embedding.world import SimulatedCaller, World, vector_of


def _world(max_texts: int = 4, cache_bytes: int = 0) -> World:
    rules = AggregationRules(max_texts=max_texts, cache_bytes=cache_bytes)
    return World({"only": CallLimits(tokens=10**6)}, rules)


def _arrive(world: World, *texts: str) -> SimulatedCaller:
    caller = SimulatedCaller(list(texts))
    world.arrive(caller)
    return caller


def _queue(world: World) -> MergeQueue:
    return next(iter(world.batcher.merge_queues.values()))


def _take(world: World) -> EmbeddingBatch:
    batch = world.batcher.take(_queue(world), world.windows["only"], world.now)
    assert batch is not None
    return batch


def _expected(caller: SimulatedCaller) -> list[bytes]:
    return [vector_of(raw) for raw in caller.job.raws]


def test_a_request_alone_is_never_divided() -> None:
    world = _world()
    caller = _arrive(world, "a", "b")
    batch = _take(world)
    assert batch.sole_job is caller.job
    assert (batch.raws, len(batch), batch.jobs) == ([b'"a"', b'"b"'], 2, [caller.job])
    world.batcher.relayed(batch, caller.job)
    assert not caller.job.texts
    assert not world.batcher.merge_queues


def test_a_full_call_passes_nobody_who_waits() -> None:
    rules = AggregationRules(max_texts=2)
    world = World({"only": CallLimits(tokens=10**6)}, rules, at_once=True)
    full = _arrive(world, "a", "b")
    assert full.job.batch is not None
    for text in ("c", "d", "e"):  # two calls that could grow are out then, and the third waits in line
        _arrive(world, text)
        world.pump()
    late = _arrive(world, "f", "g")
    assert late.job.batch is None
    assert _take(world).raws == [b'"e"', b'"f"']


def test_a_full_call_leaves_the_next_request_whole() -> None:
    world = _world(max_texts=2)
    one, other = _arrive(world, "a", "b"), _arrive(world, "c", "d")
    assert _take(world).sole_job is one.job
    assert _take(world).sole_job is other.job


@pytest.mark.parametrize("taken", [False, True], ids=["while it waits", "while it is computed"])
def test_who_wants_one_of_its_texts_shares_it(taken: bool) -> None:
    world = _world()
    first = _arrive(world, "a", "b")
    if taken:
        world.pump()
    second = _arrive(world, "b", "c")
    world.at(0.0, lambda: None)
    world.run()
    assert [caller.job.vectors for caller in (first, second)] == [_expected(first), _expected(second)]
    assert sorted(world.computed) == [b'"a"', b'"b"', b'"c"']
    assert not world.batcher.merge_queues


def test_two_requests_that_fit_share_a_call() -> None:
    world = _world()
    _arrive(world, "a", "b")
    _arrive(world, "c", "d")
    batch = _take(world)
    assert batch.sole_job is None
    assert [text.raw for text in batch.texts] == [b'"a"', b'"b"', b'"c"', b'"d"']
    assert _queue(world).waiting == 0


def test_what_does_not_fit_into_a_call_is_divided_and_all_of_it_counted() -> None:
    world = _world(max_texts=2)
    _arrive(world, "a", "b", "c")
    queue = _queue(world)
    assert _take(world).raws == [b'"a"', b'"b"']
    assert (queue.waiting, queue.waiting_tokens, queue.waiting_size) == (1, 3, 4)
    assert _take(world).raws == [b'"c"']
    assert (queue.waiting, queue.waiting_tokens, queue.waiting_size) == (0, 0, 0)


def test_a_text_that_stands_twice_in_a_request_is_computed_once() -> None:
    world = _world()
    caller = _arrive(world, "a", "a")
    assert _take(world).raws == [b'"a"']
    assert not caller.job.undivided


def test_a_cache_is_asked_for_each_text() -> None:
    world = _world(cache_bytes=10_000)
    for _ in range(2):
        _arrive(world, "a", "b")
        world.at(world.now, lambda: None)
        world.run()
    assert len(world.computed) == 2


def test_what_waits_whole_fails_when_its_lane_is_refused() -> None:
    world = _world()
    caller = _arrive(world, "a", "b")
    assert world.batcher.refuse(_queue(world), "gone") == []
    assert (caller.ended, caller.error) == ("failed", "gone")
    assert not world.batcher.merge_queues


def test_a_whole_request_that_leaves_its_call_makes_it_unwanted() -> None:
    world = _world()
    caller = _arrive(world, "a", "b")
    batch = _take(world)
    assert world.batcher.leave(caller.job) == [batch]
