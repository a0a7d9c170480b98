"""``traces`` as a command: its tables, and that they do not depend on how many cases are played at the same time."""

from __future__ import annotations

import json

import pytest

from tests.bench.__main__ import main
from tests.bench.traces.baselines import BASELINES

CASES = ["long-bursts", "one-prefix", "mixed"]


def test_the_summary_has_each_workload_under_each_rule(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for jobs in ("1", "2"):
        main(["traces", *CASES, "--part", "0.02", "--summary", "--jobs", jobs])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    lines = [line.split(" | ") for line in shown[0].splitlines() if line.startswith("| ")]
    assert lines[0][1:] == [
        "hybrid",
        "least_loaded, at once",
        "round_robin, at once",
        "llm-d",
        "dynamo",
        "smg",
        "over |",
    ]
    bursts = next(line for line in lines if line[0] == "| bursts of long prompts")
    assert all(bursts[column] for column in (1, 2, 4, 5, 6))
    assert not bursts[3]
    assert bursts[-1].rstrip("| ") == "+0.0"
    assert sum(line[0].startswith("| one shared prefix, ") for line in lines) == 8
    assert not any("mixed" in line[0] for line in lines)  # no other router's rule is played there


def test_json_has_every_row_and_bound(capsys: pytest.CaptureFixture[str]) -> None:
    main(["traces", "long-bursts", "--part", "0.02", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in result["rows"]} >= {"hybrid", *BASELINES}
    assert result["bounds"]


def test_an_unknown_case_is_named_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["traces", "moonkake"]) == 2
    assert "no case moonkake; there are mooncake-1.6, " in capsys.readouterr().out
