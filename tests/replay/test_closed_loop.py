"""Callers that ask again after an answer are recognized in a record, and wait for the replay's answers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from sage_inference.replay.jobs import Job, Outcome
from tests.replay.records import FAST, entries, looped, played, recorded, spread


def links(workload_jobs: list[Job]) -> int:
    return sum(job.follows is not None for job in workload_jobs)


def test_jobs_that_follow_wait_for_the_answer_and_the_time_to_think() -> None:
    outcomes = played(looped(2, 3, think_ms=70.0))
    assert len(outcomes) == 6
    by_place = {outcome.place: outcome for outcome in outcomes}
    for place in range(2, 6):
        before = by_place[place - 2].end_ms
        assert before is not None
        assert by_place[place].job.at_ms == pytest.approx(before + 70.0)


def test_a_job_follows_a_refused_one_too() -> None:
    too_long = Job(0.0, 10_000_000, 5)
    outcomes = played([too_long, Job(0.0, 10, 5, follows=0, think_ms=9.0)])
    assert [outcome.refused is None for outcome in outcomes] == [False, True]


def of_callers(outcomes: list[Outcome], callers: int) -> list[int]:
    """A connection for each caller."""
    return [100 + outcome.place % callers for outcome in outcomes]


@pytest.mark.parametrize("think_ms", [0.3, 40.0, 900.0])
@pytest.mark.parametrize("callers", [1, 4, 40])
def test_own_connections_of_callers_are_a_closed_loop(tmp_path: Path, callers: int, think_ms: float) -> None:
    outcomes = played(looped(callers, 8, think_ms=think_ms))
    lines = entries(outcomes)
    for line, connection in zip(lines, of_callers(outcomes, callers), strict=True):
        line["connection"] = connection
    jobs = recorded(tmp_path, lines).jobs
    assert links(jobs) == callers * 7
    assert all(job.think_ms == pytest.approx(think_ms, abs=0.01) for job in jobs if job.follows is not None)


def test_callers_that_think_for_different_times_are_a_closed_loop(tmp_path: Path) -> None:
    random, jobs = Random(3), looped(30, 8)
    jobs = [
        job
        if job.follows is None
        else Job(0.0, 300, 40, follows=job.follows, think_ms=random.uniform(50, 5000))
        for job in jobs
    ]
    outcomes = played(jobs)
    lines = entries(outcomes)
    for line, connection in zip(lines, of_callers(outcomes, 30), strict=True):
        line["connection"] = connection
    assert links(recorded(tmp_path, lines).jobs) == 30 * 7


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_pool_of_connections_is_no_closed_loop(tmp_path: Path, newest_first: bool, seed: int) -> None:
    random, at, jobs = Random(seed), 0.0, []
    for _ in range(400):
        at += random.expovariate(1 / 60.0)
        jobs.append(Job(at, 300, 30 + random.randrange(60)))
    outcomes = played(jobs)
    lines, opened = entries(outcomes), 0
    free: list[tuple[float, int]] = []
    for line, outcome in zip(lines, outcomes, strict=True):
        ready = sorted(each for each in free if each[0] <= outcome.job.at_ms)
        if ready:
            taken = ready[-1 if newest_first else 0]
            free.remove(taken)
            line["connection"] = taken[1]
        else:
            opened += 1
            line["connection"] = opened
        assert outcome.end_ms is not None
        free.append((outcome.end_ms, line["connection"]))
    assert links(recorded(tmp_path, lines).jobs) == 0
    assert links(recorded(tmp_path, lines, closed=True).jobs) > 300


def test_requests_on_connections_of_their_own_arrive_on_their_own(tmp_path: Path) -> None:
    lines = entries(played(spread(50)))
    for number, line in enumerate(lines):
        line["connection"] = number + 1
    assert links(recorded(tmp_path, lines).jobs) == 0


def test_without_connections_the_option_decides(tmp_path: Path) -> None:
    lines = entries(played(looped(6, 5)))
    assert links(recorded(tmp_path, lines).jobs) == 0
    assert links(recorded(tmp_path, lines, closed=True).jobs) == 24
    assert links(recorded(tmp_path, lines, closed=False).jobs) == 0


def test_a_faster_replay_thinks_faster(tmp_path: Path) -> None:
    workload = recorded(tmp_path, entries(played(looped(3, 4, think_ms=80.0))), closed=True)
    faster = workload.at_speed(2)
    assert [job.think_ms for job in faster.jobs] == [job.think_ms / 2 for job in workload.jobs]


def test_the_replay_of_a_closed_loop_keeps_its_number_of_callers(tmp_path: Path) -> None:
    """On an engine that is half as fast callers ask half as often. In an open loop they would pile up."""
    workload = recorded(tmp_path, entries(played(looped(8, 10))), closed=True)
    slow = FAST.__class__(14.0, 0.02, 3e-5, 0.06, 2e-6, 0.0, 30.0)
    outcomes = played(workload.jobs, slow)
    for each in outcomes:
        at = each.job.at_ms
        under_way = sum(o.job.at_ms <= at < (o.end_ms or 0.0) for o in outcomes)
        assert under_way <= 8


def test_run_reports_each_end_once() -> None:
    assert len({outcome.place for outcome in played(looped(3, 5))}) == 15


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("gap_ms", [8.0, 25.0, 2000.0])
def test_a_busy_pool_is_no_closed_loop_either(tmp_path: Path, newest_first: bool, gap_ms: float) -> None:
    """At a high rate most connections are in use, and one is used again soon. Arrivals come in bursts."""
    random, at, jobs = Random(7), 0.0, []
    for _ in range(300):
        at += random.expovariate(1 / gap_ms) * random.choice((0.1, 0.1, 2.8))
        jobs.append(Job(at, 300, 20 + random.randrange(200)))
    outcomes = played(jobs)
    lines = entries(outcomes)
    free: list[tuple[float, int]] = []
    for number, (line, outcome) in enumerate(zip(lines, outcomes, strict=True)):
        ready = sorted(each for each in free if each[0] <= outcome.job.at_ms)
        taken = ready[-1 if newest_first else 0] if ready else (0.0, number + 1)
        free = [each for each in free if each != taken]
        line["connection"] = taken[1]
        free.append((outcome.end_ms or 0.0, taken[1]))
    if len({line["connection"] for line in lines}) > 1:
        assert links(recorded(tmp_path, lines).jobs) == 0
