"""Instances that are slower than others of their model, before the real manager; all figures are simulated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from sage_inference.control_plane.policies import policy_named
from sage_inference.replay.fleet import ModelledFleet, llm_fleet
from sage_inference.replay.jobs import Job, Outcome
from sage_inference.replay.report import summarize
from sage_inference.replay.run import Run
from sage_inference.replay.slo import ReplaySlo

NAMES = [f"gpu-{number}-llm" for number in range(1, 5)]


def arrivals(per_s: float, seconds: float) -> list[Job]:
    rng = random.Random(4)
    jobs, at = [], 0.0
    while (at := at + rng.expovariate(per_s) * 1000) < seconds * 1000:
        jobs.append(Job(at, rng.randint(100, 2000), rng.randint(50, 300)))
    return jobs


def in_one_piece(jobs: Sequence[Job], share: float = 1.0) -> list[Job]:
    rng = random.Random(5)
    return [replace(job, streams=rng.random() >= share) for job in jobs]


def slow(*which: int, factor: float = 3.0) -> Callable[[ModelledFleet], None]:
    def prepare(fleet: ModelledFleet) -> None:
        for number in which:
            fleet.gpus[number].slow_down(factor)

    return prepare


def play(
    jobs: Sequence[Job], prepare: Callable[[ModelledFleet], None], policy: str = "hybrid"
) -> list[Outcome]:
    fleet = llm_fleet(4)
    prepare(fleet)
    return Run(policy_named(policy, fleet.clock), fleet).play(jobs)


def goodput(outcomes: Sequence[Outcome]) -> float:
    return 100 * summarize(outcomes, ReplaySlo()).goodput


def shares(outcomes: Sequence[Outcome]) -> list[float]:
    count = Counter(outcome.instance for outcome in outcomes)
    return [count[name] / max(1, len(outcomes)) for name in NAMES]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1], ids=["one piece", "half of them", "a tenth"])
def test_two_slow_instances_of_four_cost_no_goodput(share: float) -> None:
    jobs = in_one_piece(arrivals(55, 40), share)
    assert goodput(play(jobs, slow(1, 2))) >= 99
    assert goodput(play(jobs, slow(1, 2), "least_loaded")) < 98  # it is no easy load


@pytest.mark.parametrize("policy", ["adaptive", "slo_aware"])
def test_every_policy_that_predicts_knows_slow_instances(policy: str) -> None:
    found = shares(play(in_one_piece(arrivals(20, 60)), slow(1, 2), policy))
    assert max(found[1:3]) < 0.6 * min(found[0], found[3])


@pytest.mark.parametrize("per_s", [5, 40])
def test_instances_that_are_alike_share_the_work_evenly(per_s: float) -> None:
    found = shares(play(in_one_piece(arrivals(per_s, 60)), slow()))
    assert found == pytest.approx([0.25] * 4, abs=0.04)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["streams", "one piece"])
@pytest.mark.parametrize("per_s", [1, 20])
def test_an_instance_that_is_fast_again_gets_its_work_back(per_s: float, share: float) -> None:
    def recovers(fleet: ModelledFleet) -> None:
        fleet.gpus[0].slow_down(10)
        fleet.events.at(60_000, lambda: fleet.gpus[0].slow_down(1))

    outcomes = play(in_one_piece(arrivals(per_s, 360), share), recovers)
    while_slow = [o for o in outcomes if 30_000 < o.job.at_ms < 60_000]
    in_the_end = [o for o in outcomes if o.job.at_ms > 270_000]
    assert shares(while_slow)[0] < 0.1
    assert shares(in_the_end)[0] == pytest.approx(0.25, abs=0.06)


def test_an_instance_that_stays_slow_is_tried_rarely() -> None:
    outcomes = play(arrivals(2, 600), slow(0, factor=10))
    tried = [o.job.at_ms for o in outcomes if o.instance == NAMES[0] and o.job.at_ms > 60_000]
    assert 1 <= len(tried) <= 0.03 * len(outcomes)
    pauses = sorted(after - before for before, after in pairwise(tried))
    assert pauses[-1] > 60_000
