"""Several replays of a short record: how many, what differs, and what is reported of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from sage_inference.cli.replay_record import document, lines
from sage_inference.replay.compare import compare, engines_for
from sage_inference.replay.repeats import LATER_MS, repeats, varied
from sage_inference.replay.slo import ReplaySlo
from tests.replay.records import entries, looped, played, recorded, spread


@pytest.mark.parametrize(("requests", "count"), [(1, 5), (1200, 5), (1201, 3), (2001, 1), (10**6, 1)])
def test_a_long_record_is_replayed_less_often(requests: int, count: int) -> None:
    assert repeats(requests) == count


def test_the_first_replay_has_the_recorded_arrivals() -> None:
    jobs = spread(20)
    assert varied(jobs, 0) == jobs


def test_the_others_differ_a_little_and_are_the_same_each_time() -> None:
    jobs = looped(4, 3)
    later = varied(jobs, 1)
    assert later == varied(jobs, 1) != varied(jobs, 2)
    for job, other in zip(jobs, later, strict=True):
        assert 0.0 <= other.at_ms - job.at_ms <= LATER_MS
        assert other.think_ms - job.think_ms == pytest.approx(other.at_ms - job.at_ms)
        assert replace(other, at_ms=job.at_ms, think_ms=job.think_ms) == job


def test_the_error_is_that_of_the_median_beside_the_spread(tmp_path: Path) -> None:
    """Many requests of one moment on two engines: the order decides who shares a step with whom."""
    workload = recorded(tmp_path, entries(played(spread(150, gap_ms=12.0), instances=2)))
    engines = engines_for(workload, ["hybrid"], ReplaySlo())
    assert engines.error is not None
    for each in engines.error.figures:
        assert len(each.replays) == 5
        assert list(each.replays) == sorted(each.replays)
        assert each.replayed == median(each.replays)
    assert any(each.replays[0] < each.replays[-1] for each in engines.error.figures)
    shown = list(lines(workload, engines))
    assert shown[2].startswith("5 replays, whose arrivals differ by up to 0.5 ms: TTFT p50 ")
    found = document(workload, engines)
    assert found is not None
    assert [each["replays"] for each in found["figures"]] == [list(f.replays) for f in engines.error.figures]
    # The table has the medians of the same replays.
    summary = compare(workload, ["hybrid"], engines, ReplaySlo())["hybrid"]
    assert summary.ttft_ms.p50 == engines.error.figures[0].replayed
    assert (summary.requests, summary.finished) == (150, 150)
