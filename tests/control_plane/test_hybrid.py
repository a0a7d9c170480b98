"""Sticky until saturated."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sage_inference.control_plane.policies import Hybrid, hybrid_with
from sage_inference.types import ExecutionInstance, RequestType, SchedulingRequest
from tests.control_plane.parts import Clock, instance, request


def chosen(what: SchedulingRequest, *instances: ExecutionInstance) -> str:
    """By ``schedule`` of one and of several, which must agree."""
    policy = Hybrid(Clock())
    alone = policy.schedule((what,), instances)[0].target_instance_id
    other = SchedulingRequest("other", what.request_type, "m", prompt_tokens=0)
    assert policy.schedule((what, other), instances)[0].target_instance_id == alone
    return alone


def warm(tokens: int, **cached: int) -> tuple[SchedulingRequest, list[ExecutionInstance]]:
    instances = [instance(name) for name in "abcd"]
    what = request(tokens=tokens)
    what.cached_tokens = {i: cached[i.instance_id] for i in instances if i.instance_id in cached}
    return what, instances


def test_a_prompt_goes_where_it_is_cached_though_that_instance_is_busier() -> None:
    what, instances = warm(1000, b=900)
    instances[1].active_requests = 8
    assert chosen(what, *instances) == "b"


def test_a_small_cached_part_is_not_worth_it() -> None:
    what, instances = warm(1000, b=290)
    instances[1].active_requests = 2
    assert chosen(what, *instances) != "b"


def test_too_many_in_flight_is_saturated() -> None:
    what, instances = warm(1000, b=1000)
    instances[1].active_requests = 13  # 1.5 · 13/4 + 8 = 12.9
    assert chosen(what, *instances) != "b"
    instances[1].active_requests = 12
    assert chosen(what, *instances) == "b"


def test_a_backlog_over_four_seconds_longer_is_saturated() -> None:
    what, instances = warm(100_000, b=100_000)
    instances[1].load.progress_at = 1000.0
    instances[1].load.pending_tokens = 133_000  # at 0.03 ms: 3990 ms
    assert chosen(what, *instances) == "b"
    instances[1].load.pending_tokens = 134_000
    assert chosen(what, *instances) != "b"


def test_of_several_that_hold_it_the_cheapest_wins_unless_it_holds_much_less() -> None:
    what, instances = warm(1000, a=900, b=800, c=500)
    for each in instances[:1]:
        each.active_requests = 5
    assert chosen(what, *instances) == "b"  # 800 ≥ 0.8 · 900; c is cheaper no more than it is warm


def test_the_cheapest_counts_backlog_prompt_and_what_runs() -> None:
    what, instances = warm(1000)
    for each, (running, pending, pace) in zip(
        instances, ((4, 0, 0.03), (0, 3000, 0.03), (0, 0, 0.1), (1, 0, 0.03)), strict=True
    ):
        each.active_requests, each.load.pending_tokens, each.load.ms_per_token = running, pending, pace
        each.load.progress_at = 1000.0
    assert chosen(what, *instances) == "d"


def test_idle_instances_share_the_work() -> None:
    policy, instances = Hybrid(Clock()), [instance(name) for name in "abcd"]
    targets = {policy.schedule((request(),), instances)[0].target_instance_id for _ in range(12)}
    assert targets == set("abcd")


def test_nothing_is_placed_where_all_are_full_or_there_is_none() -> None:
    full = instance("a", 1)
    full.active_requests = 1
    assert Hybrid(Clock()).schedule((request(),), [full]) == []
    assert Hybrid(Clock()).schedule((request(),), []) == []


def test_generation_can_be_left_to_another_policy_while_embeddings_go_where_they_cost_least() -> None:
    policy = hybrid_with("round_robin", Clock())
    instances = [instance("a"), instance("b")]
    instances[0].active_requests = 5
    texts = [replace(request(n), request_type=RequestType.EMBEDDING) for n in range(2)]
    chats = [request(n + 2) for n in range(2)]
    decisions = {
        one.request_id: one.target_instance_id for one in policy.schedule([*texts, *chats], instances)
    }
    assert {decisions[one.request_id] for one in texts} == {"b"}
    assert {decisions[one.request_id] for one in chats} == {"a", "b"}
    assert (policy.name, policy.order) == ("hybrid", "fifo")


@pytest.mark.parametrize("name", ["fifo", "priority", "slo_aware", "adaptive"])
def test_a_fallback_that_is_an_order_changes_the_order_alone(name: str) -> None:
    policy = hybrid_with(name)
    assert isinstance(policy, Hybrid)
    assert policy.order == name
    assert hybrid_with("hybrid").order == "adaptive"
