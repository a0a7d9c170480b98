"""``autoscale`` as a command, on an hour of its day."""

from __future__ import annotations

import json

import pytest

from sage_inference.replay.jobs import Job
from sage_inference.replay.report import summarize
from sage_inference.replay.slo import ReplaySlo
from tests.bench.__main__ import main
from tests.bench.commands import autoscale
from tests.bench.many.day import SLO, DayFleet, a_day, play_by_demand, play_fixed
from tests.bench.traces.contest import Bound


def test_the_first_hour_holds_all_bounds_but_one_that_nobody_can_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscale, "LOST_POINTS", -1.0)
    assert main(["autoscale", "--part", "0.05", "--start", "300", "--jobs", "1", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["simulated"]
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["always 6"]["gpu_hours"] == pytest.approx(6, rel=0.05)
    assert rows["always 6"]["changes"] == []
    changes = rows["by demand, start 300 s"]["changes"]
    assert changes
    assert all(1 <= each["replicas"] <= 6 and each["reason"] for each in changes)
    lost, gpu_hours, often = document["bounds"]
    assert lost["value"] <= 2.0
    assert [lost["held"], gpu_hours["held"], often["held"]] == [False, True, True]


def test_the_table_marks_a_bound_that_is_missed_and_lists_the_changes() -> None:
    jobs = [Job(1000.0 * second, 500, 20) for second in range(600)]
    played = play_by_demand(jobs, 60.0, least=0)
    row = summarize(played.outcomes, ReplaySlo(SLO)), played.gpu_hours, [(60.0, 2, "much work")]
    shown = autoscale.text({"by demand": row}, [Bound("changes an hour", 7.0, 6.0, True)], with_changes=True)
    assert shown.startswith("All figures are simulated.")
    assert "| by demand | 100.0 |" in shown
    assert "- changes an hour: 7 (≤ 6: **missed**)" in shown
    assert "0.02 h  2  much work" in shown


def test_a_day_has_the_part_of_the_trace_that_its_hours_have() -> None:
    night, noon = a_day([3]), a_day([11])
    assert len(noon) == 19_366
    assert len(night) / len(noon) == pytest.approx(0.15, rel=0.05)


def test_a_fleet_counts_the_hours_of_starts_and_leaves_nothing_behind() -> None:
    jobs = [Job(1000.0 * second, 500, 20) for second in range(3600)]
    day = DayFleet(1, 300.0)
    day.fleet.events.at(600_000.0, lambda: day.scale(2, "up"))
    day.fleet.events.at(1_800_000.0, lambda: day.scale(1, "down"))
    played = day.play(jobs)
    assert played.gpu_hours == pytest.approx(1 + 1200 / 3600, abs=0.01)
    assert all(outcome.end_ms is not None for outcome in played.outcomes)
    assert len({outcome.instance for outcome in played.outcomes}) == 2


def test_from_none_a_replica_is_started_for_the_first_request_and_ended_after_five_idle_minutes() -> None:
    morning = [Job(600_000.0 + 5_000.0 * n, 500, 20) for n in range(100)]
    jobs = [*morning, Job(3_600_000.0, 500, 20)]
    played = play_by_demand(jobs, 60.0, least=0)
    assert [replicas for _, replicas, _ in played.changes] == [0, 1, 0, 1]
    refused = [outcome.job.at_ms for outcome in played.outcomes if outcome.refused]
    assert refused
    assert all(600_000 <= at < 662_000 or at == 3_600_000 for at in refused)
    assert played.gpu_hours < 0.7 * play_fixed(jobs, 1).gpu_hours
