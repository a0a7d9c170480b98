"""Other routers' rules, held to the examples that their sources give."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.replay.fleet import llm_fleet
from sage_inference.types import ExecutionInstance, RequestType, SchedulingRequest
from tests.bench.traces import workloads
from tests.bench.traces.baselines import BASELINES, dynamo
from tests.bench.traces.baselines.dynamo import Dynamo
from tests.bench.traces.baselines.llm_d import LLMD, Metrics
from tests.bench.traces.baselines.smg import SMG
from tests.bench.traces.contest import play

BLOCK = 512


def instances(count: int) -> list[ExecutionInstance]:
    return llm_fleet(count).instances


def request(
    tokens: int, *blocks: int, cached: dict[ExecutionInstance, int] | None = None
) -> SchedulingRequest:
    return SchedulingRequest(
        "r",
        RequestType.LLM_CHAT,
        "llm",
        prompt_tokens=tokens,
        prompt_blocks=blocks,
        block_tokens=BLOCK,
        cached_tokens=cached or {},
    )


def chosen(policy: PlacementPolicy, wanted: SchedulingRequest, among: list[ExecutionInstance]) -> int:
    [decision] = policy.schedule([wanted], among)
    return [i.instance_id for i in among].index(decision.target_instance_id)


def test_dynamo_selects_the_second_worker_of_its_guides_example() -> None:
    costs = [dynamo.cost(*blocks) for blocks in ((8, 10), (5, 5), (2, 9))]
    assert costs == [18, 10, 11]


def test_dynamo_counts_uncached_tokens_sent_and_a_prefix_under_way_once() -> None:
    busy, idle = instances(2)
    policy = Dynamo()
    first = request(2 * BLOCK, 1, 2)
    placement = Placement(busy, 2 * BLOCK, 0.0, first)
    policy.began(placement)
    # Prefill 1,024 pending + 512 uncached, decode 1,536: 3,072 tokens, beside 1,536 + 1,536 on the idle one.
    like = request(3 * BLOCK, 1, 2, 3, cached={busy: 2 * BLOCK})
    assert {chosen(policy, like, [busy, idle]) for _ in range(20)} == {0, 1}  # equal costs are drawn
    placement.begun(1.0)
    assert {chosen(policy, like, [busy, idle]) for _ in range(20)} == {0}
    other = request(3 * BLOCK, 7, 8, 9)
    assert {chosen(policy, other, [busy, idle]) for _ in range(20)} == {1}
    policy.ended(placement)
    assert {chosen(policy, other, [busy, idle]) for _ in range(20)} == {0, 1}


def test_llm_d_adds_its_scorers_with_the_default_weights() -> None:
    a, b, c = among = instances(3)
    metrics = {a: Metrics(10, 0.5), b: Metrics(5, 0.2), c: Metrics(0, 0.8)}
    policy = LLMD(metrics.__getitem__, lambda: 0.0)
    scores = policy.scores(request(1000, 1, cached={a: 1000, b: 500}), among)
    assert scores == pytest.approx([0 + 2 * 0.5 + 3, 2 * 0.5 + 2 * 0.8 + 3 * 0.5, 2 + 2 * 0.2 + 0])
    assert chosen(policy, request(1000, 1, cached={a: 1000, b: 500}), among) == 1


def test_llm_d_scores_equal_queues_alike_and_lets_equal_scores_take_turns() -> None:
    among = instances(3)
    policy = LLMD(lambda instance: Metrics(7, 0.5), lambda: 0.0)
    assert policy.scores(request(100), among) == [3.0] * 3
    assert {chosen(policy, request(100), among) for _ in range(3)} == {0, 1, 2}


def test_llm_d_reads_metrics_every_50_ms() -> None:
    a, b = among = instances(2)
    waiting = {a: 0, b: 1}
    now = 0.0
    policy = LLMD(lambda instance: Metrics(waiting[instance], 0.0), lambda: now)
    assert chosen(policy, request(100), among) == 0
    waiting[a] = 2
    now = 49.0
    assert chosen(policy, request(100), among) == 0
    now = 50.0
    assert chosen(policy, request(100), among) == 1


def test_smg_sends_a_prompt_where_its_prefix_went_last() -> None:
    policy, among = SMG(), instances(2)
    first = chosen(policy, request(4 * BLOCK, 1, 2, 3, 4), among)
    among[first].active_requests = 5
    assert chosen(policy, request(4 * BLOCK, 1, 2, 3, 4), among) == first
    assert chosen(policy, request(BLOCK, 1), among) == first
    assert chosen(policy, request(4 * BLOCK, 1, 20, 30, 40), among) != first  # 25 % match, not over 30 %


@pytest.mark.parametrize(
    ("most", "least", "balanced"), [(64, 0, True), (65, 0, False), (195, 130, True), (196, 130, False)]
)
def test_smg_takes_the_shortest_queue_once_both_thresholds_are_passed(
    most: int, least: int, balanced: bool
) -> None:
    policy, among = SMG(), instances(2)
    warm = chosen(policy, request(BLOCK, 1), among)
    among[warm].active_requests, among[1 - warm].active_requests = most, least
    assert (chosen(policy, request(BLOCK, 1), among) == warm) is balanced


@pytest.mark.parametrize("name", BASELINES)
def test_each_rule_serves_a_whole_workload(name: str) -> None:
    outcomes = play(name, workloads.prefix_tenants(5, tenants=20), at_once=True)
    assert all(outcome.end_ms is not None for outcome in outcomes)
    assert len({outcome.instance for outcome in outcomes}) == 4
