"""The laws of aggregation, on a simulated clock with callers that come and leave at any time."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_inference.control_plane.embedding import AggregationRules, CallLimits
from tests.control_plane.embedding.world import SimulatedCaller, World, cost_of, vector_of

_LIMITS = st.builds(
    CallLimits,
    texts=st.sampled_from([0, 1, 3, 8]),
    tokens=st.sampled_from([12, 40, 8192]),
    size=st.sampled_from([0, 30, 200]),
    texts_at_once=st.sampled_from([0, 4, 20]),
    serial=st.booleans(),
    pads=st.booleans(),
    padding=st.sampled_from([0.0, 2.0, math.inf]),
)
_TEXTS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=14)
_CALLERS = st.lists(
    st.tuples(
        st.integers(0, 30),  # when it comes, in ms
        _TEXTS,
        st.sampled_from(["queue", "queue", "other"]),
        st.one_of(st.none(), st.integers(0, 30)),  # how long until it leaves
        st.sampled_from([False, False, False, True]),  # whether its last text is bad
    ),
    min_size=1,
    max_size=12,
)
_RULES = st.builds(
    AggregationRules,
    max_texts=st.sampled_from([1, 4, 32]),
    min_texts=st.sampled_from([1, 1, 5]),
    merges=st.booleans(),
    cache_bytes=st.sampled_from([0, 0, 2000]),
)
_INSTANCES = st.lists(_LIMITS, min_size=1, max_size=3)


def _world(limits: list[CallLimits], rules: AggregationRules, callers: list[tuple]) -> World:  # type: ignore[type-arg]
    world = World({f"i{n}": one for n, one in enumerate(limits)}, rules, at_once=len(limits) == 1)
    for number, (at, texts, queue, stays, bad) in enumerate(callers):
        # A bad text is one caller's own: nobody else is to blame for it.
        caller = SimulatedCaller([*texts, f"bad {number}"] if bad else texts, bad)
        world.at(at / 1000, lambda caller=caller, queue=queue: world.arrive(caller, queue))  # type: ignore[misc]
        if stays is not None:
            world.at((at + stays + 0.5) / 1000, lambda caller=caller: world.leave(caller))  # type: ignore[misc]
    return world


@settings(max_examples=150, deadline=None)
@given(_INSTANCES, _RULES, _CALLERS)
def test_every_caller_gets_its_own_vectors_in_its_order_and_usage_sums(limits, rules, callers) -> None:  # type: ignore[no-untyped-def]
    world = _world(limits, rules, callers)
    world.run()
    for caller in world.callers:
        assert caller.ended, "a caller was forgotten"
        if caller.ended == "finished":
            assert not caller.bad
            assert caller.job.vectors == [vector_of(raw) for raw in caller.job.raws]
        elif caller.ended == "failed":
            assert caller.bad
    assert (world.batcher.jobs, world.batcher.size, world.batcher.merge_queues) == (0, 0, {})


@settings(max_examples=100, deadline=None)
@given(_INSTANCES, _CALLERS)
def test_usage_sums_to_what_engines_counted(limits, callers) -> None:  # type: ignore[no-untyped-def]
    unique = [
        (at, [f"{n} {i}" for i in range(len(t))], queue, None, False)
        for n, (at, t, queue, _, _) in enumerate(callers)
    ]
    world = _world(limits, AggregationRules(), unique)
    world.run()
    counted = sum(cost_of(raw) for raw in world.computed)
    assert sum(sum(caller.job.tokens) for caller in world.callers) == counted


@settings(max_examples=150, deadline=None)
@given(_INSTANCES, _RULES, _CALLERS)
def test_no_call_exceeds_a_limit(limits, rules, callers) -> None:  # type: ignore[no-untyped-def]
    world = _world(limits, rules, callers)

    def at_once() -> None:
        for window in world.windows.values():
            assert not window.limits.texts_at_once or window.texts <= window.limits.texts_at_once
            one_by_one = window.limits.serial and rules.merges and not world.batcher.counters.splits
            assert not one_by_one or len(window.batches) <= 1

    world.on_idle = at_once
    world.run()
    for sent in world.sent:
        limit = world.windows[sent.instance].limits.at_most(rules.max_texts)
        of_one = any(set(sent.texts) <= set(caller.job.raws) for caller in world.callers)
        admit = limit.admit_request if of_one else limit.admit
        assert len(sent.texts) == 1 or admit(len(sent.texts), sent.tokens, sent.size)


_TEN = ["a", "b", "c", "aa", "ab", "ac", "ba", "bb", "bc", "aaa"]


@settings(max_examples=150, deadline=None)
@example(  # a call of one queue leaves so little room that what waits in the other would fill it
    [CallLimits(tokens=8192, size=30, texts_at_once=20)],
    [
        (0, ["a"], "queue", None, False),
        (0, ["a"], "other", None, False),
        (1, ["ab"], "queue", None, False),
        (11, ["a", "b", "c", "aa"], "queue", None, False),
        (13, ["a", "a", "a", "a", "aaa", "aab", "aba", "abb", "baa"], "queue", None, False),
        (12, _TEN, "other", None, False),
    ],
    True,
)
@given(_INSTANCES, _CALLERS, st.booleans())
def test_nothing_waits_while_an_instance_has_room(limits, callers, merges) -> None:  # type: ignore[no-untyped-def]
    world = _world(limits, AggregationRules(merges=merges), callers)

    def no_wait() -> None:
        for queue in world.batcher.merge_queues.values():
            assert not queue.waiting or world.open_window(queue) is None
            # Where an instance has no window, it is at work: the wait ends by itself.
            assert not queue.waiting or all(window.batches for window in world.windows.values())

    world.on_idle = no_wait
    world.run()


@settings(max_examples=100, deadline=None)
@given(_INSTANCES, _CALLERS, st.integers(2, 6))
def test_a_wait_that_was_asked_for_ends_in_time(limits, callers, least) -> None:  # type: ignore[no-untyped-def]
    rules = AggregationRules(min_texts=least, max_wait_s=0.02)
    world = _world(limits, rules, callers)

    def in_time() -> None:
        for queue in world.batcher.merge_queues.values():
            overdue = queue.waiting and world.now >= queue.oldest + rules.max_wait_s
            assert not overdue or world.open_window(queue) is None

    world.on_idle = in_time
    world.run()


@settings(max_examples=120, deadline=None)
@given(_INSTANCES, _CALLERS)
def test_a_text_is_computed_once_however_many_want_it_at_once(limits, callers) -> None:  # type: ignore[no-untyped-def]
    good = [(at, texts, "queue", None, False) for at, texts, *_ in callers]
    world = _world(limits, AggregationRules(), good)

    def once() -> None:
        flying = Counter(raw for window in world.windows.values() for b in window.batches for raw in b.raws)
        assert not flying or max(flying.values()) == 1

    world.on_idle = once
    world.run()


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 64), st.data())
def test_a_bad_text_is_found_in_few_calls(callers, data) -> None:  # type: ignore[no-untyped-def]
    world = World({"only": CallLimits(serial=True)}, AggregationRules(max_texts=64))
    bad = data.draw(st.integers(0, callers - 1))
    world.at(0.0, lambda: world.arrive(SimulatedCaller(["first, to fill the instance"])))
    for number in range(callers):
        caller = SimulatedCaller([f"text {number}"], bad=number == bad)
        world.at(0.001, lambda caller=caller: world.arrive(caller))  # type: ignore[misc]
    world.run()
    assert sum(caller.ended == "finished" for caller in world.callers) == callers
    # One call, and for each halving two.
    assert len(world.sent) - 1 <= 1 + 2 * (callers - 1).bit_length()
