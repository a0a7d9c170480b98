"""``many`` as a command, and parts of its cases with their bounds."""

from __future__ import annotations

import json

import pytest

from sage_inference.replay.fleet import llm_fleet
from tests.bench.__main__ import main
from tests.bench.many.gateways import by_model, of_models
from tests.bench.many.takeover import LOST, play_takeover
from tests.bench.traces import workloads


def test_parts_of_both_kinds_of_cases_hold_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["many", "azure-12", "--part", "0.1", "--json"]) == 0
    assert main(["many", "takeover-prefixes", "--part", "0.4", "--json"]) == 0
    divided, takeover = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [row["name"] for row in divided["rows"]][:2] == ["1 gateway", "2 gateways that divide the models"]
    assert [bound["at_most"] for bound in divided["bounds"]] == [False] * 3
    assert takeover["rows"][1]["summary"]["requests"] == takeover["rows"][0]["summary"]["requests"] > 1000
    assert takeover["rows"][1]["summary"]["hit_ratio"] < takeover["rows"][0]["summary"]["hit_ratio"]


def test_a_bound_that_is_missed_ends_with_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.bench.many.cases.LOST", -1.0)
    assert main(["many", "takeover-prefixes", "--part", "0.3"]) == 1
    assert "**missed**" in capsys.readouterr().out


def test_an_unknown_case_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["many", "moonkake"]) == 2
    assert "no case moonkake; there are mooncake-1.6, " in capsys.readouterr().out


def test_each_request_has_one_outcome_however_many_gateways_there_are() -> None:
    jobs = by_model(workloads.chats(40, 10))
    assert {job.model for job in jobs} == {f"model-{number}" for number in range(8)}
    for gateways in (1, 8):
        outcomes = of_models(jobs, gateways)
        assert sorted(id(outcome.job) for outcome in outcomes) == sorted(map(id, jobs))
        assert all(outcome.end_ms is not None for outcome in outcomes)


def test_a_takeover_cuts_what_is_under_way_and_repeats_it_once() -> None:
    jobs = workloads.chats(20, 40)
    pair = play_takeover(jobs, llm_fleet(2), 10_000.0)
    assert pair.lost
    assert [outcome.refused for outcome in pair.lost] == [LOST] * len(pair.lost)
    assert all(outcome.end_ms is None for outcome in pair.lost)
    assert [outcome.job.prompt for outcome in pair.repeated] == [outcome.job.prompt for outcome in pair.lost]
    assert len(pair.outcomes) == len(jobs) + len(pair.repeated)
    assert all(outcome.end_ms is not None for outcome in pair.outcomes if outcome.refused is None)
    assert not pair.scheduler.queued


def test_requests_wait_for_a_standby_that_listens_later() -> None:
    jobs = workloads.chats(20, 40)
    pair = play_takeover(jobs, llm_fleet(2), 10_000.0, 4_000.0)
    late = [o for o in pair.outcomes if 10_000 <= o.job.at_ms < 14_000 and o.refused is None]
    assert late
    assert all(outcome.placed_ms is not None and outcome.placed_ms >= 14_000 for outcome in late)
