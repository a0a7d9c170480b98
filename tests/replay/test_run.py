"""Jobs through the real manager: each ends once, waits for its slot, and is where the policy put it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.encoder_engine import EncoderEngine
from sage_inference.replay.fleet import ModelledFleet, llm_fleet, mixed_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.report import percentile, summarize
from sage_inference.replay.run import QUEUE_MS, TOO_LONG, Run
from sage_inference.replay.slo import ReplaySlo
from sage_inference.simulator.timing import (
    TRANSIT_MS,
    encoder_ms,
    front_end_ms,
    llm_step_ms,
    pooling_step_ms,
)
from sage_inference.types import RequestType


def play(fleet: ModelledFleet, *jobs: Job, policy: str = "least_loaded") -> list[Outcome]:
    return Run(policy_named(policy, fleet.clock), fleet).play(jobs)


def one_slot() -> ModelledFleet:
    fleet = ModelledFleet()
    fleet.add_llm(slots=1)
    return fleet


def test_one_job_takes_what_its_engine_takes() -> None:
    [outcome] = play(llm_fleet(1), Job(1000.0, 500, 2))
    first = llm_step_ms(1, 0, [(500, 0)])
    assert outcome.ttft_ms == pytest.approx(first)
    assert outcome.tpot_ms == pytest.approx(llm_step_ms(1, 501))
    assert outcome.e2e_ms == pytest.approx(first + llm_step_ms(1, 501))


@pytest.mark.parametrize("streams", [True, False])
def test_the_scheduler_sees_the_first_byte_of_an_answer_in_one_piece_at_its_end(streams: bool) -> None:
    run = Run(policy_named("least_loaded"), llm_fleet(1))
    seen: list[Placement] = []
    run.scheduler.watch(None, seen.append)
    [outcome] = run.play([Job(0.0, 500, 20, streams=streams)])
    [placement] = seen
    assert outcome.ttft_ms == pytest.approx(llm_step_ms(1, 0, [(500, 0)]))  # of the engine, either way
    assert placement.answered_at is not None
    assert placement.answered_at * 1000 == pytest.approx(outcome.ttft_ms if streams else outcome.e2e_ms)


def test_the_policy_decides_where_a_job_goes() -> None:
    jobs = [Job(float(n), 100, 50) for n in range(4)]
    assert len({o.instance for o in play(llm_fleet(4), *jobs, policy="round_robin")}) == 4


def test_a_job_waits_in_the_manager_for_a_slot() -> None:
    first, second = play(one_slot(), Job(0.0, 100, 50), Job(1.0, 100, 50))
    assert second.placed_ms == first.end_ms


def test_a_job_that_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    fleet = one_slot()
    fleet.gpus[0].slow_down(1000)
    run = Run(policy_named("least_loaded"), fleet)
    first, second = run.play([Job(0.0, 100, 50), Job(1.0, 100, 50)])
    assert first.end_ms is not None
    assert first.end_ms > QUEUE_MS
    assert (second.refused, second.placed_ms) == ("queue_timeout", None)
    assert run.scheduler.queued == 0


def test_an_embedding_goes_to_an_embedding_engine() -> None:
    [outcome] = play(mixed_fleet(1), Job(0.0, 800, 1, request_type=RequestType.EMBEDDING))
    assert outcome.instance == "gpu-1-embedding"
    before, after = front_end_ms(2, 800)
    assert outcome.e2e_ms == pytest.approx(before + pooling_step_ms(2, 800) + after + TRANSIT_MS)
    [outcome] = play(
        mixed_fleet(1, encoder=EncoderEngine), Job(0.0, 800, 1, request_type=RequestType.EMBEDDING)
    )
    assert outcome.e2e_ms == pytest.approx(encoder_ms(800))


def test_engines_of_one_gpu_slow_each_other_while_both_are_busy() -> None:
    embedding = Job(0.0, 16_000, 1, request_type=RequestType.EMBEDDING)
    both = play(mixed_fleet(1, encoder=EncoderEngine), Job(0.0, 100, 10), embedding)
    alone = play(mixed_fleet(1), Job(0.0, 100, 10))[0].e2e_ms
    call = encoder_ms(16_000)
    assert both[1].e2e_ms == pytest.approx(call / 0.45)
    assert alone is not None
    # What the other left undone of its own pace, it has to do afterwards.
    assert both[0].e2e_ms == pytest.approx(alone + call / 0.45 - call)


@given(st.floats(0.0, 1e6))
def test_what_is_due_at_a_time_of_the_clock_does_not_come_before_it(seconds: float) -> None:
    fleet = ModelledFleet()
    found: list[float] = []
    fleet.alarm(lambda: found.append(fleet.clock()))(seconds)
    fleet.events.step()
    assert found[0] >= seconds
    assert found[0] == pytest.approx(seconds)


def test_a_finished_job_may_bring_the_next() -> None:
    run = Run(policy_named("least_loaded"), llm_fleet(1))
    run.ended = lambda outcome: run.submit(Job(0.0, 100, 5)) if len(run.outcomes) < 5 else None
    outcomes = run.play([Job(0.0, 100, 5)])
    assert [o.end_ms is not None for o in outcomes] == [True] * 5


def test_goodput_counts_those_that_kept_both_targets_among_all() -> None:
    job = Job(0.0, 100, 11)
    kept = Outcome(job, first_ms=1000.0, end_ms=1500.0)
    late = Outcome(job, first_ms=1001.0, end_ms=1500.0)
    slow = Outcome(job, first_ms=500.0, end_ms=1001.0)
    summary = summarize([kept, late, slow, Outcome(job, refused="queue_full")], ReplaySlo())
    assert (summary.goodput, summary.finished, summary.refused) == (0.25, 3, 1)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, part) for part in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0


def uneven(*lengths: int) -> ModelledFleet:
    fleet = ModelledFleet()
    for length in lengths:
        fleet.add_llm(max_model_len=length)
    return fleet


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "hybrid"])
@pytest.mark.parametrize(
    ("prompt", "output"), [(10_000, 10), (5000, 10), (100, 8000), (4000, 200)], ids=lambda n: str(n)
)
def test_what_fits_only_a_larger_context_is_served_there(policy: str, prompt: int, output: int) -> None:
    outcomes = play(uneven(4096, 32_768), *[Job(float(n), prompt, output) for n in range(6)], policy=policy)
    assert [o.refused for o in outcomes] == [None] * 6
    assert {o.instance for o in outcomes} == {"gpu-2-llm"}
    assert all(o.end_ms is not None for o in outcomes)


@pytest.mark.parametrize("lengths", [(4096,), (4096, 4096), (4096, 8192), (0, 0)], ids=str)
def test_what_fits_no_context_is_refused_and_leaves_nothing_behind(lengths: tuple[int, ...]) -> None:
    run = Run(policy_named("least_loaded"), uneven(*lengths))
    small, large = run.play([Job(0.0, 100, 10), Job(1.0, 950_000, 10)])
    assert small.end_ms is not None
    assert (large.refused, large.first_ms) == (TOO_LONG, None)
    assert [i.active_requests for i in run.scheduler.registry.instances.values()] == [0] * len(lengths)
