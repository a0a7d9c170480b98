"""What every policy must do, and what each one is for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import POLICIES as OFFERED
from sage_inference.control_plane.policies import (
    POLICIES,
    LeastLoaded,
    PlacementPolicy,
    PowerOfTwo,
    RoundRobin,
    policy_named,
)
from sage_inference.types import ExecutionInstance, RequestType, SchedulingRequest


def instance(name: str, load: int = 0, limit: int = 0, weight: float = 1.0) -> ExecutionInstance:
    return ExecutionInstance(
        name, "127.0.0.1", 1, active_requests=load, max_concurrent_requests=limit, weight=weight
    )


def requests(count: int) -> list[SchedulingRequest]:
    return [SchedulingRequest(f"r{n}", RequestType.LLM_CHAT, "m") for n in range(count)]


def placed(policy: PlacementPolicy, count: int, instances: list[ExecutionInstance]) -> Counter[str]:
    return Counter(d.target_instance_id for d in policy.schedule(requests(count), instances))


def test_the_policies_offered_in_the_configuration_are_those_there_are() -> None:
    assert set(OFFERED) == set(POLICIES)


every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


@every_policy
@given(
    loads=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6),
    count=st.integers(0, 20),
)
def test_decisions_name_their_own_request_and_no_instance_beyond_its_limit(
    name: str, loads: list[tuple[int, int]], count: int
) -> None:
    instances = [instance(f"i{n}", load, limit) for n, (load, limit) in enumerate(loads)]
    asked = requests(count)
    decisions = policy_named(name).schedule(asked, instances)
    assert [d.request_id for d in decisions] == [r.request_id for r in asked][: len(decisions)]
    taken = Counter(d.target_instance_id for d in decisions)
    for each in instances:
        assert taken[each.instance_id] <= each.available_capacity
    room = sum(each.available_capacity for each in instances)
    assert len(decisions) == min(count, room)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"cost_optimized"}))
def test_a_burst_in_one_call_does_not_all_go_to_one_instance(name: str) -> None:
    counts = placed(policy_named(name), 90, [instance("a"), instance("b"), instance("c")])
    assert max(counts.values()) < 60


def test_least_loaded_fills_the_emptiest_first_and_counts_what_it_placed() -> None:
    assert placed(LeastLoaded(), 6, [instance("a", 4), instance("b", 0), instance("c", 2)]) == {
        "b": 4,
        "c": 2,
    }


def test_least_loaded_heeds_weights() -> None:
    assert placed(LeastLoaded(), 9, [instance("a", weight=2.0), instance("b")]) == {"a": 6, "b": 3}


def test_least_loaded_shares_idle_instances() -> None:
    policy = LeastLoaded()
    idle = [instance("a"), instance("b"), instance("c")]
    assert len({policy.schedule(requests(1), idle)[0].target_instance_id for _ in range(3)}) == 3


def test_round_robin_takes_turns() -> None:
    policy, instances = RoundRobin(), [instance("a", 9), instance("b")]
    assert [policy.schedule(requests(1), instances)[0].target_instance_id for _ in range(4)] == list("abab")


def test_power_of_two_never_picks_the_worst_of_two() -> None:
    policy = PowerOfTwo(random.Random(1))
    assert placed(policy, 1, [instance("a", 9), instance("b", 0)]) == {"b": 1}
