"""Load from dispatch to end, and the pace that first bytes teach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.instances.load import Placement, backlog_ms
from sage_inference.types import RequestType
from tests.control_plane.parts import Clock, instance, manager, request, submit

K = 0.03


def test_a_first_byte_teaches_the_pace_by_the_formula() -> None:
    a = instance("a")
    placement = Placement(a, 1000, 10.0)
    placement.begun(10.050)
    m, u = 0.98 * 600 + 50, 0.98 * 20000 + 1000
    assert a.load.ms_per_token == pytest.approx(m / u)
    assert (a.load.pending_tokens, a.load.progress_at) == (0, 10.050)


def test_time_counts_from_the_byte_before_or_the_own_push_whichever_is_later() -> None:
    a = instance("a")
    first, second = Placement(a, 1000, 10.0), Placement(a, 1000, 10.01)
    first.begun(10.03)
    before = a.load.busy_ms
    second.begun(10.05)
    assert a.load.busy_ms == pytest.approx(0.98 * before + 20)


def test_the_backlog_is_what_is_pending_less_the_time_since_progress() -> None:
    a = instance("a")
    Placement(a, 1000, 10.0)
    assert backlog_ms(a.load, 10.0) == pytest.approx(30)
    assert backlog_ms(a.load, 10.01) == pytest.approx(20)
    assert backlog_ms(a.load, 99.0) == 0


def test_a_push_onto_an_idle_instance_starts_its_clock() -> None:
    a = instance("a")
    Placement(a, 1000, 10.0).ended(11.0)
    Placement(a, 1000, 50.0)
    assert backlog_ms(a.load, 50.0) == pytest.approx(30)


def test_an_attempt_that_ends_before_its_first_byte_gives_back_and_teaches_nothing() -> None:
    a = instance("a")
    placement = Placement(a, 1000, 10.0)
    placement.ended(11.0)
    assert (a.active_requests, a.load.pending_tokens, a.load.ms_per_token) == (0, 0, K)


def test_what_is_no_prompt_of_its_model_frees_the_instance_and_teaches_nothing() -> None:
    clock = Clock()
    a = instance("a")
    m = manager(a, clock=clock)
    for odd in (request(0, 0), request(1, 5000, streams=True)):
        odd.request_type = RequestType.TOKENIZE
        submission = submit(m, odd)
        clock.now += 0.001
        m.first_byte(submission)
    assert (a.load.pending_tokens, a.load.ms_per_token) == (0, K)


def test_a_prompt_is_presumed_done_when_its_backlog_is() -> None:
    a = instance("a")
    first = Placement(a, 1000, 10.0)
    assert first.expect(10.0) == pytest.approx(10.030)
    assert Placement(a, 2000, 10.0).expect(10.0) == pytest.approx(10.090)
    first.presumed_begun()
    assert a.load.pending_tokens == 2000
    assert backlog_ms(a.load, 10.030) == pytest.approx(60)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=12))
def test_requests_share_the_busy_time_of_their_instance_without_rest(
    spans: list[tuple[float, float]],
) -> None:
    a = instance("a")
    events = sorted(
        event
        for number, (one, other) in enumerate(spans)
        for event in ((min(one, other), 0, number), (max(one, other), 1, number))
    )
    placed: dict[int, Placement] = {}
    for at, ends, number in events:
        if ends:
            placed[number].ended(at)
        else:
            placed[number] = Placement(a, 1, at)
    busy, until = 0.0, 0.0
    for begin, end in sorted((min(span), max(span)) for span in spans):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    assert sum(placement.busy_s for placement in placed.values()) == pytest.approx(busy)
    assert all(placement.busy_s >= -1e-9 for placement in placed.values())
