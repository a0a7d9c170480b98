"""Instances and choices as a program constructs them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from enum import Enum
from typing import Any

import pytest

import sage_inference
from sage_inference import (
    BackendInstanceConfig,
    EngineState,
    ExecutionInstance,
    ExecutionInstanceType,
    HybridSchedulingConfig,
    RequestClassifier,
    RequestMetadata,
    RequestType,
    SchedulingDecision,
    SchedulingPolicyType,
    UnifiedServerConfig,
)

CHAT, EMBEDDING = RequestType.LLM_CHAT, RequestType.EMBEDDING
POLICIES = ["FIFO", "Priority", "SLOAware", "CostOptimized", "Adaptive", "HybridScheduling"]


def instance(**fields: Any) -> ExecutionInstance:
    return ExecutionInstance(**{"instance_id": "i", "host": "h", "port": 1, "model_name": "m", **fields})


def test_a_new_instance_is_healthy_and_available() -> None:
    made = instance()
    assert (made.is_healthy, made.is_available, made.state) == (True, True, EngineState.READY)
    assert RequestClassifier().get_compatible_instances(CHAT, [made]) == [made]
    assert made.can_accept_llm_request()
    assert not made.can_accept_embedding_request()


@pytest.mark.parametrize(
    ("fields", "healthy", "available"),
    [
        ({"is_healthy": False}, False, False),
        ({"is_healthy": False, "is_available": True}, False, False),
        ({"is_healthy": False, "is_available": False}, False, False),
        ({"is_available": False}, True, False),
        ({"is_healthy": True, "is_available": False}, True, False),
        ({"is_healthy": True, "is_available": True}, True, True),
        ({"is_healthy": None, "is_available": None}, True, True),
        ({"state": EngineState.STARTING}, False, False),
        ({"state": EngineState.ASLEEP}, True, False),
        ({"state": "EJECTED", "is_healthy": True}, True, True),
    ],
)
def test_the_flags_are_its_state(fields: dict[str, Any], healthy: bool, available: bool) -> None:
    made = instance(**fields)
    assert (made.is_healthy, made.is_available) == (healthy, available)
    assert made.can_handle_request_type(CHAT)
    assert made.can_accept_llm_request() is available
    compatible = RequestClassifier().get_compatible_instances
    assert compatible(CHAT, [made]) == [made] * available
    assert compatible(CHAT, [made], include_unavailable=True) == [made]


def test_the_flags_can_be_set() -> None:
    made = instance()
    made.is_healthy = False
    assert not made.is_available
    made.is_healthy = True
    assert made.is_available
    made.is_available = False
    assert (made.is_healthy, made.is_available) == (True, False)
    made.is_available = True
    assert made.is_available


@pytest.mark.parametrize(
    ("limit", "active", "left"),
    [(0, 9, float("inf")), (None, 9, float("inf")), (2, 0, 2), (2, 2, 0), (2, 3, 0)],
)
def test_capacity_is_what_the_limit_leaves(limit: int | None, active: int, left: float) -> None:
    made = instance(max_concurrent_requests=limit, active_requests=active)
    assert made.available_capacity == left
    assert made.can_accept_llm_request() is (left > 0)


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True, float("nan")])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="max_concurrent_requests must be a whole number of at least 0"):
        instance(max_concurrent_requests=limit)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("general", ExecutionInstanceType.GENERAL),
        ("LLM_EMBEDDING", ExecutionInstanceType.LLM_EMBEDDING),
        ("mixed", ExecutionInstanceType.LLM_EMBEDDING),
        ("LLM", ExecutionInstanceType.GENERAL),
    ],
)
def test_a_kind_of_instance_is_taken_by_its_word(word: Any, kind: ExecutionInstanceType) -> None:
    assert instance(instance_type=word).instance_type is kind


@pytest.mark.parametrize("field", ["instance_type", "engine", "state"])
def test_a_wrong_word_names_the_field_and_the_choices(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} 'wrong' is not one of .*, "):
        instance(**{field: "wrong"})


def test_positional_and_keyword_construction_agree() -> None:
    made = ExecutionInstance("i", "h", 1, "m", ExecutionInstanceType.EMBEDDING)
    assert repr(made) == repr(instance(instance_type="embedding"))
    assert made.can_handle_request_type(EMBEDDING)
    assert not made.can_handle_request_type(CHAT)


def test_copies_keep_the_fields_and_not_the_load() -> None:
    made = instance(is_available=False, max_concurrent_requests=3)
    made.load.pending_tokens = 7
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), dataclasses.replace(made)):
        assert repr(other) == repr(made)
        assert other.load is not made.load
        assert other != made
    flags: Any = {"is_available": True}
    assert dataclasses.replace(made, **flags).is_available


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in sage_inference.__all__
        if isinstance(o := getattr(sage_inference, n), type) and issubclass(o, Enum)
    ],
)
def test_members_of_every_enumeration_are_found_by_value_and_name(name: str) -> None:
    cls = getattr(sage_inference, name)
    for member in cls:
        for word in (member.value, member.name, member.name.lower()):
            assert cls(word) is member
        assert pickle.loads(pickle.dumps(member)) is member
        assert copy.deepcopy(member) is member
    wrongs: list[Any] = ["wrong", "", None, -1, []]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=f"is not one of .*{member.name.lower()}"):
            cls(wrong)


@pytest.mark.parametrize("name", POLICIES)
def test_policies_place_public_requests_on_public_instances(name: str) -> None:
    policy = getattr(sage_inference, f"{name}Policy")()
    fleet = [
        ExecutionInstance("llm", "h", 1, "m"),
        ExecutionInstance("emb", "h", 2, "e", "embedding"),
        ExecutionInstance("down", "h", 3, "m", is_healthy=False),
        ExecutionInstance("leaving", "h", 4, "m", is_available=False),
    ]
    requests = [
        RequestMetadata("chat", prompt="hello", model_name="m"),
        RequestMetadata("texts", embedding_texts=["a"], embedding_model="e", model_name="m"),
        RequestMetadata("other", prompt="hello", model_name="other"),
    ]
    placed = {one.request_id: one.target_instance_id for one in policy.schedule(requests, fleet)}
    assert placed == {"chat": "llm", "texts": "emb"}
    assert sorted(one.request_id for one in policy.prioritize(requests)) == ["chat", "other", "texts"]
    assert policy.prioritize(requests)[0] in requests


WRONG: dict[str, list[Any]] = {
    "embedding_batch_size": [0, -1, 1.5, True, float("nan"), float("inf"), "8", None, [8]],
    "min_embedding_batch_size": [0, -1, 1.5, False, float("nan"), "8", None],
    "embedding_priority": ["urgent", "", 1, True, None, float("nan")],
    "llm_fallback_policy": ["best", "", 1, True, None, float("nan")],
    "hybrid_instance_ratio": [-0.1, 1.0, 7, True, float("nan"), float("-inf"), "0.5", None],
    "prefer_specialized_instances": [1, 0, "yes", None, float("nan")],
    "max_embedding_wait_ms": [-1, True, float("nan"), float("-inf"), "50", None],
    "enable_embedding_batching": [1, 0, "no", None, float("nan")],
}


def test_every_field_of_the_hybrid_configuration_is_checked() -> None:
    assert set(WRONG) == {one.name for one in dataclasses.fields(HybridSchedulingConfig)}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, all_ in WRONG.items() for value in all_]
)
def test_a_wrong_value_names_the_field_the_value_and_the_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must ") as raised:
        HybridSchedulingConfig(**{field: value})
    shown = (
        {None: "null", "": ""}.get(value, f"{value:g}" if isinstance(value, float) else str(value))
        if not isinstance(value, list)
        else "[8]"
    )
    assert shown.lower() in str(raised.value).lower()
    with pytest.raises(ValueError, match=f"^{field} must "):
        sage_inference.HybridSchedulingPolicy(**{field: value})


def test_a_backend_and_a_server_take_words_and_name_the_choices() -> None:
    backend = BackendInstanceConfig("h", 1, "m", "MIXED", None)
    assert backend == BackendInstanceConfig(
        host="h", port=1, model_name="m", instance_type=ExecutionInstanceType.LLM_EMBEDDING
    )
    config = UnifiedServerConfig("127.0.0.1", 8123, [backend], scheduling_policy="HYBRID")
    assert config.scheduling_policy is SchedulingPolicyType.HYBRID
    assert config.settings().instances[0].kind == "mixed"
    for made in (backend, config):
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), dataclasses.replace(made)):
            assert other == made
    with pytest.raises(ValueError, match="instance_type 'cat' is not one of general, "):
        BackendInstanceConfig(instance_type="cat")
    with pytest.raises(ValueError, match="scheduling_policy 'best' is not one of hybrid, "):
        UnifiedServerConfig(scheduling_policy="best")


def test_a_decision_is_a_value() -> None:
    decision = SchedulingDecision("r", "i", "cheapest", confidence=0.5, metadata={"batch_id": 1})
    assert decision == SchedulingDecision("r", "i", "cheapest", 0.5, 0.0, {"batch_id": 1})
    for other in (copy.copy(decision), copy.deepcopy(decision), pickle.loads(pickle.dumps(decision))):
        assert other == decision


def test_the_hybrid_configuration_takes_enumerations_and_positions() -> None:
    made = HybridSchedulingConfig(
        8, sage_inference.EmbeddingPriority.HIGH, sage_inference.SchedulingPolicyType.FIFO
    )
    assert made == HybridSchedulingConfig(
        embedding_batch_size=8, embedding_priority="HIGH", llm_fallback_policy="fifo"
    )
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == dataclasses.replace(made) == made
    with pytest.raises(TypeError, match="config must be a HybridSchedulingConfig, not dict"):
        sage_inference.HybridSchedulingPolicy({"embedding_batch_size": 8})  # type: ignore[arg-type]
