"""The window of calls at one engine: what may be sent now, and that its counts are those of the calls in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.embedding import (
    AggregationRules,
    Batcher,
    CallLimits,
    CallWindow,
    EmbeddingBatch,
    EmbeddingJob,
)
from sage_inference.control_plane.embedding.call_window import (
    FIRST_BACKOFF_S,
    MOST_INTERACTIVE,
    WINDOW_CALLS,
)
from sage_inference.control_plane.embedding.learned_window import START
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.embedding.request import Text
from tests.control_plane.embedding.world import SimulatedCaller

NOW = 10.0
MANY = 1000


def queue(texts: int) -> MergeQueue:
    """A queue in which so many texts of one request wait."""
    batcher, made = Batcher(AggregationRules()), job(texts)
    batcher.enter(made, "queue", "m", "/v1/embeddings", [1] * texts, 0.0)
    batcher.line_up(made)
    [found] = batcher.merge_queues.values()
    return found


def batch(*tokens: int, full: bool = False, bulk: bool = False) -> EmbeddingBatch:
    """A call with a text of so many tokens each."""
    texts = [Text(b"x" * n, n, 0.0) for n in tokens]
    for text in texts:
        text.interactive = not bulk
    return EmbeddingBatch(QUEUE, texts, full=full)


def job(texts: int) -> EmbeddingJob:
    made = SimulatedCaller([str(n) for n in range(texts)]).job
    made.counts = [1] * texts
    made.estimate = texts
    return made


QUEUE = queue(1)


def window(*sent: EmbeddingBatch, **limits: object) -> CallWindow:
    made = CallWindow(CallLimits(**limits))  # type: ignore[arg-type]
    for each in sent:
        made.sent(each)
    return made


@pytest.mark.parametrize(
    "limits", [{}, {"serial": True}, {"pads": True}, {"texts_at_once": 4}, {"tokens": 1, "texts": 1}]
)
def test_an_idle_engine_takes_any_call(limits: dict[str, object]) -> None:
    for texts in (1, 8, 9, 100):
        assert window(**limits).is_open(queue(texts), NOW, max_texts=32)


def test_calls_that_could_grow_wait_for_the_two_before_them() -> None:
    one, two = batch(1), batch(1)
    found = window(one)
    assert found.is_open(queue(1), NOW, max_texts=32)
    found.sent(two)
    assert not found.is_open(queue(1), NOW, max_texts=32)
    found.ended(one)
    assert found.is_open(queue(1), NOW, max_texts=32)
    assert WINDOW_CALLS == 2


@pytest.mark.parametrize(("waiting", "is_open"), [(31, False), (32, True), (33, True)])
def test_a_full_call_does_not_wait_for_them(waiting: int, is_open: bool) -> None:
    batcher = Batcher(AggregationRules())
    for n in range(waiting):
        made = SimulatedCaller([str(n)]).job
        batcher.enter(made, "queue", "m", "/v1/embeddings", [1], 0.0)
        batcher.line_up(made)
    [waits] = batcher.merge_queues.values()
    assert window(batch(1), batch(1)).is_open(waits, NOW, max_texts=32) is is_open


def test_a_bulk_request_does_not_wait_to_grow() -> None:
    assert window(batch(1), batch(1)).is_open(queue(9), NOW, max_texts=32)
    assert not window(batch(1), batch(1)).is_open(queue(8), NOW, max_texts=32)
    assert not window(batch(1), batch(1), pads=True).is_open(queue(9), NOW, max_texts=32)


def test_calls_that_could_not_have_grown_do_not_count_as_partial() -> None:
    assert window(batch(1, full=True), batch(1, full=True)).is_open(queue(1), NOW, max_texts=32)


def test_without_merging_no_call_could_grow() -> None:
    assert window(*[batch(1) for _ in range(5)]).is_open(queue(1), NOW, max_texts=1, merges=False)


@pytest.mark.parametrize(
    ("calls", "takes"), [(1, True), (START - 1, True), (START, False), (START + 1, False)]
)
def test_bulk_calls_are_as_many_as_pay_and_interactive_ones_pass_them(calls: int, takes: bool) -> None:
    found = window(*[batch(5, bulk=True) for _ in range(calls)])
    assert found.takes_bulk is takes
    assert found.takes_full(NOW, interactive=False) is takes
    assert found.takes_full(NOW, interactive=True)


def test_an_engine_that_fills_batches_gets_bulk_until_one_is_full() -> None:
    for tokens, takes in ((99, True), (100, False), (199, False)):
        found = window(
            *[batch(tokens // 3, bulk=True) for _ in range(2)],
            batch(tokens - 2 * (tokens // 3), bulk=True),
            batch_tokens=100,
        )
        assert found.takes_full(NOW, interactive=False) is takes
        assert found.takes_full(NOW, interactive=True)


def test_interactive_calls_have_a_bound_of_their_own() -> None:
    bulk = [batch(1, bulk=True) for _ in range(MANY)]
    sent = [batch(1, full=True) for _ in range(MOST_INTERACTIVE - 1)]
    assert window(*bulk, *sent).takes_full(NOW, interactive=True)
    assert not window(*bulk, *sent, batch(1, full=True)).takes_full(NOW, interactive=True)


def test_behind_bulk_calls_more_calls_that_could_grow_are_sent() -> None:
    bulk = [batch(9, bulk=True) for _ in range(3)]
    assert window(*bulk, *[batch(1) for _ in range(4)]).is_open(queue(1), NOW, max_texts=32)
    assert not window(*bulk, *[batch(1) for _ in range(5)]).is_open(queue(1), NOW, max_texts=32)


def test_an_engine_that_computes_one_call_at_a_time_gets_one() -> None:
    found = window(batch(1, full=True), serial=True)
    assert not found.takes_full(NOW, interactive=True)
    assert not found.is_open(queue(MANY), NOW, max_texts=32)


def test_an_engine_that_pads_gets_no_third_call_that_could_grow_however_much_waits() -> None:
    assert not window(batch(1), batch(1), pads=True).is_open(queue(MANY), NOW, max_texts=32)


@pytest.mark.parametrize(("sent", "left"), [(0, 8), (3, 5), (7, 1), (8, None), (9, None)])
def test_texts_at_once_bound_the_next_call(sent: int, left: int | None) -> None:
    found = window(*[batch(1, full=True) for _ in range(sent)], texts_at_once=8)
    assert found.is_open(queue(MANY), NOW, max_texts=32) is (left is not None)
    assert found.is_open(queue(1), NOW, max_texts=32) is (left is not None)
    assert found.next_limits().texts == (left or 1)


@pytest.mark.parametrize(
    ("texts", "fills"), [(1, False), (8, False), (9, True), (31, True), (32, True), (33, True)]
)
def test_a_job_fills_a_call_that_need_take_no_other_text(texts: int, fills: bool) -> None:
    assert window().is_filled_by(job(texts), 32) is fills
    assert window(texts=texts).is_filled_by(job(texts), MANY)
    assert window(tokens=texts).is_filled_by(job(texts), MANY)
    assert not window(pads=True).is_filled_by(job(texts), 32)
    assert window(serial=True).is_filled_by(job(texts), 32) is (texts == 32)


RULES = AggregationRules()


@pytest.mark.parametrize(("texts", "takes"), [(1, True), (31, True), (32, True), (33, False)])
def test_a_job_goes_undivided_where_it_fits_a_call(texts: int, takes: bool) -> None:
    for found in (
        window(),
        window(texts=32),
        window(pads=True),
        window(serial=True),
        window(texts_at_once=texts),
    ):
        assert found.takes_undivided(job(texts), NOW, RULES, full=False) is takes
    # Tokens are estimates: only an engine that computes nothing beside the call gets less than a whole request for them.
    assert window(tokens=texts - 1).takes_undivided(job(texts), NOW, RULES, full=False) is takes
    serial = {"tokens": texts - 1, "serial": True}
    for limits in (serial, {"size": texts}, {"texts_at_once": texts - 1 or MANY}):
        # A text alone goes however large it is: the engine refuses it.
        takes_one = texts == 1
        assert window(**limits).takes_undivided(job(texts), NOW, RULES, full=False) is takes_one


@pytest.mark.parametrize(
    ("partial", "full", "takes"), [(1, False, True), (2, False, False), (2, True, True), (3, True, True)]
)
def test_a_job_that_could_grow_waits_for_the_two_calls_before_it(
    partial: int, full: bool, takes: bool
) -> None:
    found = window(*[batch(1) for _ in range(partial)])
    assert found.takes_undivided(job(1), NOW, RULES, full=full) is takes
    assert found.takes_undivided(job(1), NOW, AggregationRules(merges=False), full=full)
    assert not window(batch(1), serial=True).takes_undivided(job(1), NOW, RULES, full=full)
    assert not window(batch(1), texts_at_once=1).takes_undivided(job(1), NOW, RULES, full=full)


def test_a_busy_engine_is_asked_again_later_each_time() -> None:
    found, now = window(), NOW
    for wait in (1, 2, 4, 8):
        found.overloaded(now)
        assert not found.is_open(queue(1), now + 0.99 * wait * FIRST_BACKOFF_S, max_texts=32)
        now += wait * FIRST_BACKOFF_S
        assert found.is_open(queue(1), now, max_texts=32)


def test_an_answer_ends_the_wait_and_a_refusal_beside_our_own_calls_does_not_lengthen_it() -> None:
    sent = batch(1)
    found = window(sent)
    found.overloaded(NOW)
    assert (found.overloads, found.takes_full(NOW, interactive=True)) == (0, False)
    found.answered(sent, NOW, NOW)
    assert found.takes_full(NOW, interactive=True)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.booleans()), st.integers(0, 9)
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([0, 16]), st.booleans())
def test_counts_are_those_of_the_calls_in_flight(
    steps: list[tuple[list[int], bool] | int], at_once: int, serial: bool
) -> None:
    found = window(texts_at_once=at_once, serial=serial)
    flying: list[EmbeddingBatch] = []
    for step in steps:
        if not isinstance(step, int):
            flying.append(batch(*step[0], full=step[1], bulk=len(flying) % 3 == 1))
            found.sent(flying[-1])
        elif flying:
            found.ended(flying.pop(step % len(flying)))
        assert found.batches == set(flying)
        assert found.texts == sum(map(len, flying))
        assert found.tokens == sum(each.tokens for each in flying)
        assert found.partial == sum(not each.full for each in flying)
        assert found.bulk == sum(each.bulk for each in flying)
        if not flying:
            assert found.is_open(queue(1), NOW, max_texts=32)
    while flying:
        found.ended(flying.pop())
    assert (found.texts, found.tokens, found.partial, found.bulk) == (0, 0, 0, 0)
