"""``replay`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.replay.records import entries, looped, played
from tests.support.command import sage

TRACE = "t_ms,in_tokens,out_tokens\n" + "".join(f"{n * 100},500,20\n" for n in range(50))


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return str(file)


def test_policies_are_shown_side_by_side(tmp_path: Path, trace: str) -> None:
    shown = sage(tmp_path, "replay", trace, "-p", "round_robin", "-p", "hybrid", "--instances", "2")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("50 requests in 5 s, 2 modelled engines")
    assert lines[1] == "SLO: first token in 1,000 ms, 50 ms a token after it"
    assert [line.split()[0] for line in lines[2:]] == ["POLICY", "round_robin", "hybrid"]
    assert "100.0 %" in lines[3]


def test_figures_for_scripts_are_as_their_schema_says(tmp_path: Path, trace: str) -> None:
    found = json.loads(sage(tmp_path, "replay", trace, "--json").stdout)
    assert mistakes(found, ANSWERS["replay"]) == []
    assert [each["policy"] for each in found["policies"]] == ["hybrid", "least_loaded"]
    assert found["policies"][0]["finished"] == 50


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere.csv",), "nowhere.csv: no such file or directory"),
        (("FILE", "-p", "hybrd"), "did you mean hybrid?"),
    ],
)
def test_a_failure_says_what_and_where(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    failed = sage(tmp_path, "replay", *args)
    assert failed.returncode in (1, 2)
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_it_aims_at_the_configured_slo_and_is_judged_by_it(tmp_path: Path, trace: str) -> None:
    """The options stand above the configuration; of what they do not name, that holds."""
    config = tmp_path / "slo.yaml"
    config.write_text("scheduling: {slo: {ttft_ms: 1, tpot_ms: 70, background: {ttft_ms: 9}}}")

    def found(*args: str) -> dict[str, Any]:
        shown = sage(tmp_path, "replay", trace, "-p", "hybrid", "--json", *args)
        assert shown.returncode == 0, shown.stderr
        answer: dict[str, Any] = json.loads(shown.stdout)
        assert mistakes(answer, ANSWERS["replay"]) == []
        return answer

    usual, own = found(), found("--config", str(config))
    assert usual["slo"] == {"ttft_ms": 1000, "tpot_ms": 50, "batch_ttft_ms": 30_000, "models": []}
    assert usual["policies"][0]["goodput"] == 1
    assert own["slo"] == {"ttft_ms": 1, "tpot_ms": 70, "batch_ttft_ms": 9, "models": []}
    assert own["policies"][0]["goodput"] == 0
    text = sage(
        tmp_path, "replay", trace, "-p", "hybrid", "--config", str(config), "--slo-tpot-ms", "7.5"
    ).stdout
    assert "\nSLO: first token in 1 ms, 7.5 ms a token after it\n" in text
    above = found("--config", str(config), "--slo-ttft-ms", "900")
    assert above["slo"] == {"ttft_ms": 900, "tpot_ms": 70, "batch_ttft_ms": 27_000, "models": []}
    assert above["policies"][0]["goodput"] == 1


def test_of_a_record_the_error_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in entries(played(looped(4, 12)))))
    shown = sage(tmp_path, "replay", str(file), "-p", "hybrid", "--closed-loop")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("recorded and replayed (hybrid): TTFT p50 ")
    assert "goodput 100.0 and 100.0 %" in lines[0]
    assert lines[1].startswith("step times learned from ")
    assert lines[2].startswith("5 replays, whose arrivals differ by up to 0.5 ms: TTFT p50 ")
    assert lines[3].startswith("closed loop: 44 requests come after")
    found = json.loads(
        sage(tmp_path, "replay", str(file), "--json", "--usual-times", "--instances", "2").stdout
    )
    assert mistakes(found, ANSWERS["replay"]) == []
    assert found["instances"] == 2
    assert not found["record"]["learned"]["decode"]
    assert found["record"]["closed_loop_requests"] == 0


def test_few_answers_are_said_to_be_too_few(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in entries(played(looped(1, 2)))))
    lines = sage(tmp_path, "replay", str(file)).stdout.splitlines()
    assert lines[1].endswith("because the record has too few whole answers to learn from")
