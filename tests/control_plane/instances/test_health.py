"""When an instance is ejected, when it is tried again, when it is back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import HealthSettings
from sage_inference.control_plane.instances.health import Health
from sage_inference.types import EngineState

READY, EJECTED, DRAINING = EngineState.READY, EngineState.EJECTED, EngineState.DRAINING


def healthy() -> Health:
    health = Health(HealthSettings(interval_s=5, failures=5), random.Random(1))
    health.probe_ok(0.0)
    return health


def test_a_refusal_ejects_at_once_and_an_answer_restores() -> None:
    health = healthy()
    health.refused(1.0)
    assert health.state is EJECTED
    health.answered(200, 1.1)
    assert health.state is READY


def test_five_consecutive_errors_eject_and_four_do_not() -> None:
    health = healthy()
    for _ in range(3):
        for _ in range(4):
            health.answered(500, 1.0)
        assert health.state is READY
        health.answered(404, 1.0)  # any answer under 500 is a sign of health
    for _ in range(5):
        health.answered(503, 1.0)
    assert health.state is EJECTED


def test_a_failed_probe_ejects_and_is_repeated_soon_unless_nobody_listens() -> None:
    for refused, wait in ((False, 0.5), (True, 1.0)):
        health = healthy()
        health.probe_failed(10.0, refused=refused)
        assert health.state is EJECTED
        assert health.next_probe_at(10.0) == 10.0 + wait


def test_what_it_says_of_itself_must_be_contradicted_twice_in_a_row() -> None:
    health = healthy()
    health.contradicted(1.0)
    health.confirmed()
    health.contradicted(2.0)
    assert health.state is READY
    assert health.next_probe_at(2.0) == 2.5
    health.probe_ok(2.5)  # it is well, and that is another matter
    health.contradicted(2.5)
    assert health.state is EJECTED


def test_the_back_off_doubles_from_one_second_to_five() -> None:
    health, now, waits = healthy(), 100.0, []
    for _ in range(5):
        health.probe_failed(now, refused=True)
        waits.append(health.next_probe_at(now) - now)
        now = health.next_probe_at(now)
    assert waits == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("away_s", [1, 30, 600, 36_000])
def test_a_return_is_noticed_within_five_seconds_however_long_it_was_away(away_s: float) -> None:
    health, now = healthy(), 100.0
    while now < 100.0 + away_s:
        health.probe_failed(now)
        now = health.next_probe_at(now)
    assert now - (100.0 + away_s) <= 5
    health.probe_ok(now)
    assert health.state is READY


def flaps(health: Health, now: float, times: int) -> float:
    """It goes and comes back, as soon as it is let; the moment of its last return."""
    for _ in range(times):
        health.refused(now)
        while health.state is not READY:
            now = health.next_probe_at(now)
            health.probe_ok(now)
        now += 0.1
    return now


def test_who_comes_and_goes_has_to_be_well_for_longer_each_time() -> None:
    health, waits, now = healthy(), [], 100.0
    for _ in range(5):
        began = now
        now = flaps(health, now, 1)
        waits.append(round(now - began - 0.1 - 1.0, 1))  # after its first good probe, 1 s on
    assert waits == [0, 1, 2, 4, 4]


def test_while_it_proves_itself_answers_do_not_restore_it_and_failures_begin_anew() -> None:
    health = healthy()
    now = flaps(health, 100.0, 2)
    health.refused(now)
    health.answered(200, now + 0.5)
    assert health.state is EJECTED
    health.probe_ok(now + 1)
    health.refused(now + 2.5)
    health.probe_ok(now + 3.5)  # well for 2 s, were it not for the refusal
    assert health.state is EJECTED
    health.probe_ok(now + 5.5)
    assert health.state is READY


def test_a_minute_of_health_is_proof_enough() -> None:
    health = healthy()
    now = flaps(health, 100.0, 3) + 61
    health.refused(now)
    health.answered(200, now + 0.1)
    assert health.state is READY


def test_two_failed_probes_in_a_row_are_silence_unless_an_answer_came_between() -> None:
    health = healthy()
    health.probe_failed(1.0)
    assert not health.is_silent
    health.probe_failed(2.0)
    assert health.is_silent
    health.answered(200, 2.5)
    assert not health.is_silent
    health.probe_failed(4.0)
    assert not health.is_silent


def test_many_failures_at_once_are_one_step_of_the_back_off() -> None:
    health = healthy()
    for _ in range(50):
        health.refused(10.0)
    assert health.next_probe_at(10.0) == 11.0


def test_a_draining_engine_stays_so_while_it_answers_and_is_back_after_it_was_gone() -> None:
    health = healthy()
    health.draining(1.0)
    health.probe_ok(2.0)  # vLLM's /health says 200 while it drains
    assert health.state is DRAINING
    health.refused(3.0)
    health.probe_ok(4.0)
    assert health.state is READY


def test_a_successor_that_was_up_before_a_probe_missed_the_one_that_drained_is_tried_after_ten_seconds() -> (
    None
):
    health = healthy()
    health.draining(1.0)
    health.probe_ok(10.9)
    assert health.state is DRAINING
    assert health.next_probe_at(10.9) <= 11.9
    health.probe_ok(11.0)
    assert health.state is READY
    health.draining(11.5)  # it was still the old one
    health.probe_ok(12.0)
    assert health.state is DRAINING


EVENTS = st.sampled_from(
    ["probe_ok", "probe_failed", "refused", "draining", "contradicted", "confirmed", "ok", "error"]
)


def tell(health: Health, event: str, now: float) -> None:
    if event in ("ok", "error"):
        health.answered(200 if event == "ok" else 500, now)
    elif event == "confirmed":
        health.confirmed()
    else:
        getattr(health, event)(now)


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=60))
def test_the_next_probe_is_never_past_nor_over_six_seconds_away(events: list[tuple[str, float]]) -> None:
    health, now = healthy(), 0.0
    for event, later in events:
        now += later
        tell(health, event, now)
        assert 0 <= health.next_probe_at(now) - now <= 6
        if event in ("probe_failed", "refused"):
            assert health.state is EJECTED


def test_a_proof_ends_however_its_times_are_rounded() -> None:
    """The rest of this one is too little to change the time of the next probe."""
    health, now = healthy(), 0.0
    for event, later in [
        ("probe_failed", 0.0),
        ("probe_ok", 1e-16),
        ("refused", 1e-16),
        ("probe_ok", 0.0),
        ("refused", 0.916623648951033),
    ]:
        now += later
        tell(health, event, now)
    for _ in range(20):
        now = health.next_probe_at(now)
        health.probe_ok(now)
    assert health.state is READY


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=60))
def test_whatever_came_before_good_probes_restore_it_within_fifteen_seconds(
    events: list[tuple[str, float]],
) -> None:
    health, now = healthy(), 0.0
    for event, later in events:
        now += later
        tell(health, event, now)
    back = now
    while health.state is not READY:
        now = health.next_probe_at(now)
        health.probe_ok(now)
    assert now - back <= 15
