"""When an instance is ejected, when it is tried again, when it is back."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import HealthSettings
from sage_inference.control_plane.health import Health
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


def test_the_back_off_doubles_from_one_second_to_sixty() -> None:
    health, now, waits = healthy(), 100.0, []
    for _ in range(8):
        health.probe_failed(now)
        waits.append(health.next_probe_at(now) - now)
        now = health.next_probe_at(now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


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


EVENTS = st.sampled_from(["probe_ok", "probe_failed", "refused", "ok", "error"])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 30)), max_size=60))
def test_the_next_probe_is_never_past_nor_over_a_minute_away(events: list[tuple[str, float]]) -> None:
    health, now = healthy(), 0.0
    for event, later in events:
        now += later
        if event in ("ok", "error"):
            health.answered(200 if event == "ok" else 500, now)
        else:
            getattr(health, event)(now)
        assert 0 <= health.next_probe_at(now) - now <= 60
        if event in ("probe_ok", "ok"):
            assert health.state is READY
        if event in ("probe_failed", "refused"):
            assert health.state is EJECTED
