"""The hybrid policy as an object of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.config.settings import SchedulingSettings
from sage_inference.library.hybrid import HybridSchedulingPolicy
from sage_inference.library.hybrid_config import HybridSchedulingConfig
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import RequestPriority, RequestType
from tests.library.test_policies import instance, request


def embedding(name: str, texts: int = 1, **fields: Any) -> RequestMetadata:
    return request(name, RequestType.EMBEDDING, embedding_texts=["x"] * texts, **fields)


def batches(policy: HybridSchedulingPolicy, requests: list[RequestMetadata], *kinds: str) -> list[list[str]]:
    fleet = [instance(f"{kind}{number}", kind) for number, kind in enumerate(kinds or ("embedding",) * 2)]
    found: dict[Any, list[str]] = {}
    for decision in policy.schedule(requests, fleet):
        assert decision.metadata is not None
        found.setdefault(decision.metadata["batch_id"], []).append(decision.request_id)
    return list(found.values())


def test_it_takes_a_config_or_its_fields_but_not_both() -> None:
    config = HybridSchedulingConfig(embedding_batch_size=7)
    assert HybridSchedulingPolicy(config).config == HybridSchedulingPolicy(embedding_batch_size=7).config
    with pytest.raises(TypeError, match="either config or embedding_batch_size"):
        HybridSchedulingPolicy(config, embedding_batch_size=7)
    with pytest.raises(ValueError, match=r'llm_fallback_policy must be one of hybrid, .*not "best"'):
        HybridSchedulingPolicy(llm_fallback_policy="best")


def test_all_of_it_can_be_set_in_the_configuration() -> None:
    assert HybridSchedulingConfig.of(SchedulingSettings()) == HybridSchedulingConfig()
    other = HybridSchedulingConfig(
        embedding_batch_size=1,
        embedding_priority="low",
        llm_fallback_policy="fifo",
        hybrid_instance_ratio=0.1,
        prefer_specialized_instances=False,
        max_embedding_wait_ms=2.0,
        enable_embedding_batching=False,
        min_embedding_batch_size=3,
    )
    settings = SchedulingSettings(**HybridSchedulingPolicy(other).settings())
    assert HybridSchedulingConfig.of(settings) == other


def test_texts_for_one_model_go_together_up_to_the_cap() -> None:
    policy = HybridSchedulingPolicy(embedding_batch_size=4)
    wanted = [embedding("a", 2), embedding("b", 2), embedding("c", 1), embedding("d", 9)]
    assert batches(policy, wanted) == [["a", "b"], ["c"], ["d"]]


def test_models_are_never_mixed() -> None:
    fleet = [instance("e", "embedding", models=("m", "n"))]
    decisions = HybridSchedulingPolicy().schedule(
        [embedding("a"), embedding("b", model="n"), embedding("c")], fleet
    )
    told = {one.request_id: (one.metadata or {})["batch_id"] for one in decisions}
    assert told["a"] == told["c"] != told["b"]


def test_batching_can_be_turned_off() -> None:
    policy = HybridSchedulingPolicy(enable_embedding_batching=False)
    assert batches(policy, [embedding("a"), embedding("b")]) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("priority", "first"), [("high", "e"), ("normal", "c"), ("low", "c"), ("adaptive", "c")]
)
def test_embeddings_go_where_their_priority_says(priority: str, first: str) -> None:
    policy = HybridSchedulingPolicy(embedding_priority=priority, llm_fallback_policy="fifo")
    assert policy.prioritize([request("c", arrived=0.0), embedding("e", arrived=1.0)])[0].request_id == first


def test_generation_goes_by_the_fallback_policy() -> None:
    urgent = request("urgent", arrived=1.0, priority=RequestPriority.CRITICAL)
    early = request("early", arrived=0.0)
    for fallback, first in {"fifo": early, "priority": urgent}.items():
        assert HybridSchedulingPolicy(llm_fallback_policy=fallback).prioritize([urgent, early])[0] is first
    fleet = [instance("a"), instance("b")]
    spread = HybridSchedulingPolicy(llm_fallback_policy="round_robin").schedule([urgent, early], fleet)
    assert len({one.target_instance_id for one in spread}) == 2


def test_mixed_instances_are_spared_only_where_that_is_preferred() -> None:
    fleet = [instance("both", "mixed"), instance("emb", "embedding", active_requests=5)]
    told = {
        prefer: HybridSchedulingPolicy(prefer_specialized_instances=prefer).schedule([embedding("e")], fleet)
        for prefer in (True, False)
    }
    assert told[True][0].target_instance_id == "emb"
    assert told[False][0].target_instance_id == "both"


def test_metrics_count_and_can_be_reset() -> None:
    policy = HybridSchedulingPolicy()
    policy.schedule([embedding("e"), request("c")], [instance("emb", "embedding")])
    metrics = policy.get_metrics()
    assert (metrics["scheduled"], metrics["unplaced"], metrics["embedding"], metrics["llm"]) == (1, 1, 1, 0)
    assert metrics["by_instance"] == {"emb": 1}
    policy.reset_metrics()
    assert policy.get_metrics()["requests"] == 0


@given(
    texts=st.lists(st.tuples(st.integers(1, 12), st.sampled_from("mn")), max_size=30),
    cap=st.integers(1, 16),
    limit=st.integers(0, 4),
)
def test_nobody_is_lost_and_no_batch_is_over_its_cap(
    texts: list[tuple[int, str]], cap: int, limit: int
) -> None:
    wanted = [embedding(f"r{n}", count, model=model) for n, (count, model) in enumerate(texts)]
    by_id = {one.request_id: one for one in wanted}
    fleet = [instance("e", "embedding", models=("m", "n"), max_concurrent_requests=limit)]
    decisions = HybridSchedulingPolicy(embedding_batch_size=cap).schedule(wanted, fleet)
    found: dict[Any, list[RequestMetadata]] = {}
    for decision in decisions:
        found.setdefault((decision.metadata or {})["batch_id"], []).append(by_id[decision.request_id])
    for batch in found.values():
        assert len({one.model for one in batch}) == 1
        assert len(batch) == 1 or sum(len(one.embedding_texts or ()) for one in batch) <= cap
    assert len(found) <= (limit or 30)
    assert limit or len(decisions) == len(wanted)
