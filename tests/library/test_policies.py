"""The policies as objects of their own: their laws."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.library.policies import (
    AdaptivePolicy,
    CostOptimizedPolicy,
    FIFOPolicy,
    PriorityPolicy,
    SchedulingPolicy,
    SLOAwarePolicy,
)
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    ExecutionInstanceType,
    RequestPriority,
    RequestType,
)

ALL: list[type[SchedulingPolicy]] = [
    FIFOPolicy,
    PriorityPolicy,
    SLOAwarePolicy,
    CostOptimizedPolicy,
    AdaptivePolicy,
]


def request(name: str, kind: RequestType = RequestType.LLM_CHAT, **fields: Any) -> RequestMetadata:
    return RequestMetadata(name, kind, **{"model": "m", "arrived": 0.0, "prompt_tokens": 100, **fields})


def instance(name: str, kind: str = "llm", **fields: Any) -> ExecutionInstance:
    return ExecutionInstance(
        name,
        "h",
        1,
        instance_type=ExecutionInstanceType(kind),
        **{"state": EngineState.READY, "models": ("m",), **fields},
    )


requests = st.lists(
    st.builds(
        lambda number, kind, priority, tokens, arrived: request(
            f"r{number}", kind, priority=priority, prompt_tokens=tokens, arrived=arrived
        ),
        st.integers(0, 10**9),
        st.sampled_from([RequestType.LLM_CHAT, RequestType.EMBEDDING]),
        st.sampled_from(RequestPriority),
        st.integers(0, 5000),
        st.floats(0, 100),
    ),
    max_size=20,
    unique_by=lambda one: one.request_id,
)
instances = st.lists(
    st.builds(
        lambda number, kind, limit, state: instance(
            f"i{number}", kind, max_concurrent_requests=limit, state=state
        ),
        st.integers(0, 10**9),
        st.sampled_from(["llm", "embedding", "mixed"]),
        st.integers(0, 3),
        st.sampled_from([EngineState.READY, EngineState.READY, EngineState.EJECTED]),
    ),
    max_size=5,
    unique_by=lambda one: one.instance_id,
)


@pytest.mark.parametrize("policy", ALL)
@given(requests=requests, instances=instances)
def test_decisions_are_fit_within_limits_and_leave_no_trace(
    policy: type[SchedulingPolicy], requests: list[RequestMetadata], instances: list[ExecutionInstance]
) -> None:
    by_request = {one.request_id: one for one in requests}
    by_instance = {one.instance_id: one for one in instances}
    before = [(one.active_requests, one.load.pending_tokens) for one in instances]
    made = policy(clock=lambda: 50.0)
    decisions = made.schedule(requests, instances)
    assert len({one.request_id for one in decisions}) == len(decisions)
    for decision in decisions:
        target = by_instance[decision.target_instance_id]
        assert target.is_available
        assert target.can_handle_request_type(by_request[decision.request_id].request_type)
    for name, count in Counter(one.target_instance_id for one in decisions).items():
        assert count <= (by_instance[name].max_concurrent_requests or 20)
    assert [(one.active_requests, one.load.pending_tokens) for one in instances] == before
    metrics = made.get_metrics()
    assert metrics["scheduled"] == len(decisions) == sum(metrics["by_instance"].values())
    assert metrics["unplaced"] == len(requests) - len(decisions)
    placed = {one.request_id for one in decisions}
    for one in requests:  # what has no decision had no instance: none that could take it had room
        if one.request_id not in placed:
            able = [i for i in instances if i.is_available and i.can_handle_request_type(one.request_type)]
            assert all(i.max_concurrent_requests for i in able)


@pytest.mark.parametrize("policy", ALL)
@given(requests=requests)
def test_prioritize_loses_and_invents_nobody(
    policy: type[SchedulingPolicy], requests: list[RequestMetadata]
) -> None:
    ordered = policy(clock=lambda: 50.0).prioritize(requests)
    assert sorted(map(id, ordered)) == sorted(map(id, requests))


def test_a_burst_in_one_call_is_spread() -> None:
    for policy in (FIFOPolicy, PriorityPolicy, SLOAwarePolicy, AdaptivePolicy):
        fleet = [instance("a"), instance("b"), instance("c")]
        decisions = policy(clock=lambda: 0.0).schedule([request(f"r{n}") for n in range(9)], fleet)
        assert Counter(one.target_instance_id for one in decisions) == {"a": 3, "b": 3, "c": 3}, policy


def test_each_policy_puts_first_what_it_should() -> None:
    early = request("early", arrived=0.0, priority=RequestPriority.LOW)
    urgent = request("urgent", arrived=1.0, priority=RequestPriority.CRITICAL)
    tight = request("tight", arrived=2.0, slo_deadline_ms=100.0)
    orders = {
        FIFOPolicy: "early",
        PriorityPolicy: "urgent",
        SLOAwarePolicy: "urgent",
        AdaptivePolicy: "urgent",
    }
    for policy, first in orders.items():
        assert policy(clock=lambda: 1.5).prioritize([tight, early, urgent])[0].request_id == first
    assert SLOAwarePolicy(clock=lambda: 2.05).prioritize([early, urgent, tight])[0] is tight


def test_a_late_request_never_goes_before_one_that_can_be_in_time() -> None:
    late, live = request("late", arrived=0.0, slo_deadline_ms=100.0), request("live", arrived=9.0)
    for policy in (SLOAwarePolicy, AdaptivePolicy):
        assert policy(clock=lambda: 9.1).prioritize([late, live]) == [live, late]


def test_cost_optimized_leaves_instances_idle() -> None:
    fleet = [instance("a"), instance("b")]
    decisions = CostOptimizedPolicy(clock=lambda: 0.0).schedule([request(f"r{n}") for n in range(4)], fleet)
    assert len({one.target_instance_id for one in decisions}) == 1


def test_specialised_instances_are_taken_while_they_have_room() -> None:
    fleet = [instance("both", "mixed"), instance("emb", "embedding", max_concurrent_requests=2)]
    wanted = [request(f"r{n}", RequestType.EMBEDDING) for n in range(3)]
    targets = [one.target_instance_id for one in FIFOPolicy().schedule(wanted, fleet)]
    assert targets == ["emb", "emb", "both"]


def test_another_models_instance_is_never_chosen() -> None:
    assert FIFOPolicy().schedule([request("r", model="other")], [instance("a")]) == []
