"""Who goes first: interactive texts before bulk, bulk at least every fourth call, each bulk request in turn."""

from __future__ import annotations

from sage_inference.control_plane.embedding import AggregationRules, CallLimits
from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.learned_window import START
from sage_inference.engines.embeddings.usage import shares
from tests.control_plane.embedding.world import SimulatedCaller, World


def _world(max_texts: int = 4, tokens: int = 10**6) -> World:
    return World({"only": CallLimits(tokens=tokens)}, AggregationRules(max_texts=max_texts))


def _owner(batch: EmbeddingBatch) -> str:
    return batch.texts[0].raw.decode().strip('"').split()[0]


def _take(world: World) -> EmbeddingBatch:
    queue = next(iter(world.batcher.merge_queues.values()))
    batch = world.batcher.take(queue, world.windows["only"], world.now)
    assert batch is not None
    world.windows["only"].ended(batch)
    return batch


def test_interactive_texts_pass_bulk_but_for_every_fourth_call() -> None:
    world = _world()
    world.arrive(SimulatedCaller([f"bulk {i}" for i in range(40)]))
    for n in range(8):
        world.arrive(SimulatedCaller([f"person {n} {i}" for i in range(4)]))
    assert [_owner(_take(world)) for _ in range(8)] == ["person", "person", "person", "bulk"] * 2


def test_bulk_requests_take_turns() -> None:
    world = _world()
    for name in "abc":
        world.arrive(SimulatedCaller([f"{name} {i}" for i in range(12)]))
    assert [_owner(_take(world)) for _ in range(9)] == list("abc") * 3


def test_an_interactive_request_does_not_wait_for_a_bulk_one_that_has_the_same_text() -> None:
    world = _world()
    world.arrive(SimulatedCaller([f"bulk {i}" for i in range(40)]))
    world.arrive(SimulatedCaller(["bulk 39"]))
    assert _take(world).texts[0].raw == b'"bulk 39"'


def test_interactive_texts_do_not_wait_for_bulk_texts() -> None:
    world = _world(tokens=60)
    world.arrive(SimulatedCaller([f"bulk {i}" for i in range(300)]))
    world.pump()
    assert len(world.sent) == START
    world.arrive(SimulatedCaller(["person"]))
    world.pump()
    assert world.sent[-1].texts == (b'"person"',)


def test_a_call_that_could_grow_waits_for_the_two_before_it() -> None:
    world = _world(max_texts=32)
    for n in range(5):
        world.arrive(SimulatedCaller([f"person {n}"]))
        world.pump()
    assert [len(sent.texts) for sent in world.sent] == [1, 1]
    world.run()
    assert [len(sent.texts) for sent in world.sent] == [1, 1, 3]


def test_shares_sum_and_follow_the_weights() -> None:
    assert shares(10, [1, 1, 2]) == [3, 2, 5]
    assert shares(7, [0, 0]) == [4, 3]
    assert sum(shares(1001, [3, 7, 11, 2])) == 1001
