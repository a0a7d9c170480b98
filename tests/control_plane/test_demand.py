"""The law of demand: targets within bounds, one change at a time, up in seconds and down in minutes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.control_plane.demand import (
    BUSY,
    CALM,
    DOWN_AFTER_S,
    PATIENCE_S,
    STEADY_S,
    UP_AFTER_S,
    Demand,
    DemandLaw,
    ReplicaTarget,
)
from sage_inference.control_plane.demand_gauge import DemandGauge
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.submission import Waiting
from tests.control_plane.parts import Submitted, instance, request

READINGS = st.builds(
    Demand,
    replicas=st.integers(0, 9),
    work=st.floats(0, 20),
    backlog_s=st.floats(0, 1000),
    lateness=st.floats(0, 50),
    strained=st.booleans(),
    asked=st.booleans(),
    unserved=st.integers(0, 3),
)


def decided(
    law: DemandLaw, demand: Demand, first: float, seconds: float
) -> tuple[float, ReplicaTarget] | None:
    """The first decision while all readings are ``demand``, and its time."""
    for second in range(int(seconds) + 1):
        if target := law.see(first + second, demand):
            return first + second, target
    return None


@given(
    bounds=st.tuples(st.integers(0, 6), st.integers(1, 6)).filter(lambda b: b[0] <= b[1]),
    readings=st.lists(st.tuples(READINGS, st.integers(1, 90)), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_a_target_is_within_its_bounds_and_differs_from_what_runs(
    bounds: tuple[int, int], readings: list[tuple[Demand, int]]
) -> None:
    law, now = DemandLaw(*bounds), 0.0
    for demand, seconds in readings:
        for _ in range(seconds):
            now += 1.0
            target = law.see(now, demand)
            if target is not None:
                assert bounds[0] <= target.replicas <= bounds[1]
                assert target.replicas != demand.replicas
                assert target.reason
                assert law.target == target


@given(readings=st.lists(st.tuples(READINGS, st.integers(1, 400)), max_size=4))
@settings(max_examples=40, deadline=None)
def test_nothing_is_decided_while_a_change_is_under_way(readings: list[tuple[Demand, int]]) -> None:
    law, now = DemandLaw(0, 6), 0.0
    at, wanted = -PATIENCE_S, -1
    for demand, seconds in readings:
        for _ in range(seconds):
            now += 1.0
            if demand.replicas == wanted:
                at = -PATIENCE_S  # it took effect
            target = law.see(now, demand)
            if target is not None:
                assert now - at >= PATIENCE_S
                at, wanted = now, target.replicas


@given(work=st.floats(0, 6), steady=st.integers(1, 6))
@settings(max_examples=12, deadline=None)
def test_a_steady_load_comes_to_rest(work: float, steady: int) -> None:
    """Whatever the fleet begins with: changes that take effect at once lead to a number that is kept."""
    law, replicas, now, changes = DemandLaw(1, 12), steady, 0.0, []
    for _ in range(1800):
        now += 1.0
        busy = work / replicas
        demand = Demand(replicas, work, 0.0, 2.0 if busy > 1 else 0.0, busy > 0.9, True)
        if target := law.see(now, demand):
            replicas = target.replicas
            changes.append(now)
    assert len(changes) <= 4
    assert not changes or changes[-1] < 1300
    assert work <= BUSY * replicas or replicas == 12


@pytest.mark.parametrize(("lateness", "strained"), [(1.5, False), (0.0, True)])
def test_late_requests_or_slow_streams_bring_replicas_after_ten_seconds(
    lateness: float, strained: bool
) -> None:
    demand = Demand(2, 0.8, 30.0, lateness, strained, True)
    found = decided(DemandLaw(1, 6), demand, 0.0, 100)
    assert found is not None
    assert found[0] == UP_AFTER_S
    assert found[1].replicas == 3


def test_a_wait_that_ends_within_ten_seconds_brings_none() -> None:
    law, calm = DemandLaw(1, 6), Demand(2, 0.8, asked=True)
    for second in range(100):
        late = second % 10 != 9
        assert law.see(float(second), replace(calm, lateness=2.0 if late else 0.5)) is None


def test_so_many_come_as_the_work_and_the_queue_need() -> None:
    demand = Demand(2, work=2.0, backlog_s=120.0, lateness=20.0, asked=True)
    found = decided(DemandLaw(1, 20), demand, 0.0, 100)
    assert found is not None
    assert found[1].replicas == 2.0 / BUSY + 120.0 / 60
    assert "20.0 times its SLO" in found[1].reason


def test_much_work_brings_replicas_before_anybody_waits() -> None:
    found = decided(DemandLaw(1, 6), Demand(2, BUSY * 2 + 0.1, asked=True), 0.0, 200)
    assert found is not None
    assert STEADY_S - 2 <= found[0] <= STEADY_S
    assert found[1].replicas == 3


def test_fewer_are_wanted_after_five_minutes_in_which_fewer_would_do() -> None:
    found = decided(DemandLaw(1, 6), Demand(4, 2 * CALM - 0.01, asked=True), 0.0, 1000)
    assert found is not None
    assert DOWN_AFTER_S <= found[0] <= DOWN_AFTER_S + 1
    assert found[1].replicas == 2
    assert decided(DemandLaw(1, 6), Demand(4, 3 * CALM + 0.01, asked=True), 0.0, 1000) is None


def test_one_late_moment_puts_off_that_there_are_fewer() -> None:
    law, calm = DemandLaw(1, 6), Demand(4, 0.1, asked=True)
    assert decided(law, calm, 0.0, 200) is None
    assert law.see(201.0, replace(calm, lateness=1.1)) is None
    found = decided(law, calm, 202.0, 1000)
    assert found is not None
    assert found[0] > 201.0 + DOWN_AFTER_S - 1


def test_an_idle_model_keeps_its_least_and_none_is_ended_while_one_request_runs() -> None:
    found = decided(DemandLaw(0, 6), Demand(3), 0.0, 1000)
    assert found is not None
    assert found[1] == ReplicaTarget(0, "no request came for 5 minutes")
    found = decided(DemandLaw(2, 6), Demand(3), 0.0, 1000)
    assert found is not None
    assert found[1].replicas == 2
    found = decided(DemandLaw(0, 6), Demand(3, asked=True), 0.0, 1000)
    assert found is not None
    assert found[1].replicas == 1


def test_from_none_the_first_request_brings_one_at_once() -> None:
    law = DemandLaw(0, 6)
    assert decided(law, Demand(0), 0.0, 1000) is None
    assert law.see(1001.0, Demand(0, asked=True, unserved=2)) == ReplicaTarget(
        1, "a request came and no replica runs"
    )
    assert law.is_changing
    assert decided(law, Demand(0, asked=True, unserved=5), 1002.0, PATIENCE_S - 2) is None


def test_a_change_that_never_takes_effect_is_given_up() -> None:
    law, late = DemandLaw(1, 6), Demand(2, 3.0, 500.0, 20.0, asked=True)
    assert decided(law, late, 0.0, 20) == (10.0, law.target)
    found = decided(law, late, 21.0, 2000)
    assert found is not None
    assert found[0] >= 10.0 + PATIENCE_S + UP_AFTER_S


def test_a_number_outside_of_the_bounds_is_brought_within() -> None:
    assert DemandLaw(2, 4).see(0.0, Demand(1)) == ReplicaTarget(2, "fewer than 2 run")
    assert DemandLaw(2, 4).see(0.0, Demand(5)) == ReplicaTarget(4, "more than 4 run")


@pytest.mark.parametrize("bounds", [(-1, 2), (3, 2), (0, 0)])
def test_bounds_that_no_number_fits_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="the least must not exceed the most"):
        DemandLaw(*bounds)


def test_the_gauge_counts_the_work_that_was_begun_and_that_came_to_wait() -> None:
    a, b = instance("a"), instance("b")
    gauge = DemandGauge()
    assert gauge.read(0.0, [a, b], []) == Demand(2)
    placement = Placement(a, 10_000, 0.0, request("r", 10_000, arrived=0.0))
    a.load.ms_per_token = b.load.ms_per_token = 0.1
    waiting = Waiting(Submitted(request("w", 20_000, arrived=0.0)), (a, b), "adaptive")
    waiting.prompt_ms = 2000.0
    found = gauge.read(1.0, [a, b], [waiting], unserved=1)
    # 10,000 tokens of 0.1 ms are in the engine, of which 1 s has passed, and 2 s wait, with an SLO of 1 s for each of two.
    assert found == Demand(2, 2.0, 2.0, 1.0, asked=True, unserved=1)
    placement.begun(2.0)
    placement.ended(3.0)
    a.load.ms_per_token = 0.1
    found = gauge.read(3.0, [a, b], [])
    assert found.work == 0.0  # 1 s was begun, and 2 s wait no longer
    assert found.asked
    assert gauge.read(4.0, [a, b], []) == Demand(2)


def test_the_gauge_sees_streams_that_lose_their_slo() -> None:
    a, b = instance("a"), instance("b")
    a.load.prompt_share = b.load.prompt_share = 0.5
    assert DemandGauge().read(0.0, [a, b], []).strained
    b.load.prompt_share = 0.65
    assert not DemandGauge().read(0.0, [a, b], []).strained
    assert DemandGauge().read(0.0, [], []) == Demand(0)
