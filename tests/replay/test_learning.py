"""Step times that are learned from a record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sage_inference.replay import tuning
from sage_inference.replay.compare import Engines, compare, engines_for
from sage_inference.replay.jobs import Job, WorkloadError
from sage_inference.replay.recording import ReplayWorkload
from sage_inference.replay.slo import ReplaySlo
from sage_inference.replay.workload import read_workload
from sage_inference.simulator.timing import USUAL, StepTimes
from tests.replay.records import FAST, entries, looped, played, recorded, spread

H200 = Path(__file__).parent.parent / "data" / "replay"


def learned_from(workload: ReplayWorkload) -> Engines:
    return engines_for(workload, ["hybrid"], ReplaySlo())


def errors(engines: Engines) -> dict[str, float]:
    assert engines.error is not None
    return {each.name: each.error for each in engines.error.figures}


SLOW = replace(
    FAST, base_ms=19.0, sequence_ms=0.05, context_ms=6e-5, prompt_ms=0.11, request_ms=40.0, ahead=False
)
QUICK = replace(FAST, base_ms=2.1, prompt_ms=0.004, attention_ms=1e-7, request_ms=3.0, ahead=False)


@pytest.mark.parametrize("times", [FAST, SLOW, QUICK, USUAL], ids=["h200", "slow", "quick", "usual"])
def test_the_times_of_an_engine_are_found_again(tmp_path: Path, times: StepTimes) -> None:
    engines = learned_from(recorded(tmp_path, entries(played(spread(300), times))))
    found = engines.learned.times
    assert engines.learned.decode
    assert engines.learned.prompts
    assert found.step_ms(1, 500) == pytest.approx(times.step_ms(1, 500), rel=0.1)
    assert found.step_ms(30, 30_000) == pytest.approx(times.step_ms(30, 30_000), rel=0.15)
    alone = [each.step_ms(1, 0, [(2000, 0)]) + each.request_ms for each in (found, times)]
    assert alone[0] == pytest.approx(alone[1], rel=0.15)
    assert found.ahead == times.ahead
    assert all(abs(error) < 0.15 for error in errors(engines).values())


@pytest.mark.parametrize("name", ["h200-open-loop", "h200-two-engines", "h200-closed-loop"])
def test_a_replay_of_real_vllm_is_near_the_record(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded before vLLM 0.25.1 on an H200, with a model of 7B parameters. No time of a step is given by hand."""
    monkeypatch.setattr(tuning, "FACTORS", (1.2,))  # the rest is only the time that this test may take
    closed = "closed" in name
    workload = read_workload(H200 / f"{name}.jsonl.gz", closed=closed or None)
    assert (sum(job.follows is not None for job in workload.jobs) > 300) == closed
    found = learned_from(workload)
    assert found.learned.times.base_ms == pytest.approx(4.7, rel=0.15)  # two machines
    bound = 0.25 if closed else 0.15  # the figures of waves differ by as much between two runs
    assert all(abs(error) < bound for error in errors(found).values()), errors(found)


def test_what_a_record_does_not_show_stays_usual(tmp_path: Path) -> None:
    """One caller with short prompts: nothing is computed beside its answers."""
    found = learned_from(recorded(tmp_path, entries(played(looped(1, 40, prompt=4), FAST)))).learned
    assert found.decode
    assert not found.prompts
    assert found.times.prompt_ms == pytest.approx(USUAL.prompt_ms, rel=0.3)
    assert found.times.hidden_ms == USUAL.hidden_ms


def test_twenty_requests_are_enough(tmp_path: Path) -> None:
    found = learned_from(recorded(tmp_path, entries(played(spread(20), FAST)))).learned
    assert found.times.step_ms(5, 3000) == pytest.approx(FAST.step_ms(5, 3000), rel=0.2)


def test_three_requests_are_not(tmp_path: Path) -> None:
    engines = learned_from(recorded(tmp_path, entries(played(spread(3), FAST))))
    assert engines.learned.times == USUAL
    assert not engines.learned.decode
    assert engines.error is not None  # it is stated all the same


def test_a_restart_in_the_middle_teaches_nothing(tmp_path: Path) -> None:
    """Requests under way were cut, and the first ones after it took seconds to load."""
    lines = entries(played(spread(300), FAST))
    for line in lines[140:150]:
        line |= {"outcome": "cut", "completion_tokens": None, "duration_ms": line["duration_ms"] / 2}
    for line in lines[150:156]:
        line |= {"first_byte_ms": 9000.0, "duration_ms": 30_000.0}
    found = learned_from(recorded(tmp_path, lines)).learned.times
    assert found.step_ms(10, 10_000) == pytest.approx(FAST.step_ms(10, 10_000), rel=0.15)


def test_cached_prefixes_are_no_computed_tokens(tmp_path: Path) -> None:
    shared = [
        Job(110.0 * n + 37 * (n * 7 % 5), 4096, 30 + 23 * (n % 6), (*range(4 + n % 4), 1000 + n))
        for n in range(200)
    ]
    found = learned_from(recorded(tmp_path, entries(played(shared, FAST), block_tokens=512))).learned.times
    alone = [each.step_ms(1, 0, [(600, 3400)]) + each.request_ms for each in (found, FAST)]
    assert alone[0] == pytest.approx(alone[1], rel=0.2)
    assert found.step_ms(5, 20_000) == pytest.approx(FAST.step_ms(5, 20_000), rel=0.1)


def test_answers_in_one_piece_teach_by_their_whole_time(tmp_path: Path) -> None:
    jobs = [replace(job, streams=False) for job in spread(300)]
    engines = learned_from(recorded(tmp_path, entries(played(jobs, FAST))))
    assert engines.learned.times.step_ms(8, 8000) == pytest.approx(FAST.step_ms(8, 8000), rel=0.15)
    assert {*errors(engines)} == {"E2E p50", "E2E p99"}
    assert all(abs(error) < 0.15 for error in errors(engines).values())


@pytest.mark.parametrize(
    "lacking",
    [
        ("policy",),
        ("policy", "cached_tokens", "status", "outcome"),
        ("first_byte_ms", "duration_ms"),
        ("waited_ms", "instance", "streams"),
    ],
)
def test_fields_of_an_older_version_may_be_missing(tmp_path: Path, lacking: tuple[str, ...]) -> None:
    lines = entries(played(spread(40), FAST))
    old: list[dict[str, Any]] = [{k: v for k, v in line.items() if k not in lacking} for line in lines]
    engines = learned_from(recorded(tmp_path, old))
    assert engines.instances == 1
    assert engines.error is not None
    assert bool(engines.error.figures) == ("duration_ms" not in lacking)


def test_recorded_engines_set_their_number_and_limits(tmp_path: Path) -> None:
    known = {"kv_tokens": 70_000, "window_tokens": 4096, "max_concurrent_requests": 5, "gpu": None}
    lines = entries(played(spread(60), FAST, instances=3, policy="round_robin"), engine=known)
    engines = learned_from(recorded(tmp_path, lines))
    assert engines.instances == 3
    assert (engines.limits.kv_tokens, engines.limits.max_num_batched_tokens) == (70_000, 4096)
    assert engines.late_binding
    pushed = [line | {"engine": known | {"window_tokens": None}} for line in lines]
    assert not learned_from(recorded(tmp_path, pushed)).late_binding


@pytest.mark.parametrize(
    "wrong",
    [
        {"completion_tokens": 10**9},
        {"duration_ms": -5.0},
        {"first_byte_ms": 1e9},
        {"prompt_tokens": 10**7},
        {"arrived_ms": 1e18},
        {"policy": "nonsense"},
        {"engine": {"kv_tokens": 16, "window_tokens": 8192, "max_concurrent_requests": None}},
        {"candidates": None, "engine": None, "instance": None, "policy": None, "waited_ms": None},
    ],
    ids=lambda wrong: "+".join(wrong),
)
def test_a_line_with_wrong_values_does_no_harm(tmp_path: Path, wrong: dict[str, Any]) -> None:
    lines = entries(played(spread(120), FAST))
    lines[30] |= wrong
    found = learned_from(recorded(tmp_path, lines)).learned.times
    assert found.step_ms(5, 3000) == pytest.approx(FAST.step_ms(5, 3000), rel=0.15)


@pytest.mark.parametrize("wrong", ['"x"', "NaN", "-Infinity", "{}", "[]"])
def test_a_value_that_is_no_number_is_refused(tmp_path: Path, wrong: str) -> None:
    [line] = entries(played(spread(1), FAST))
    text = json.dumps(line | {"first_byte_ms": 77.25}).replace("77.25", wrong)
    (tmp_path / "record.jsonl").write_text(text + "\n")
    with pytest.raises(WorkloadError):
        read_workload(tmp_path / "record.jsonl")


def test_engines_of_different_models_have_times_of_their_own(tmp_path: Path) -> None:
    """A small model on one engine, and a large one on two."""
    small = entries(played(spread(150), QUICK), model="small", instance="a")
    large = entries(played(spread(200), SLOW, instances=2), model="large")
    lines = []
    for number, line in enumerate(small + large):
        own = ["a"] if line["model"] == "small" else ["gpu-1-llm", "gpu-2-llm"]
        lines.append(line | {"request_id": str(number), "candidates": [{"instance": name} for name in own]})
    engines = learned_from(recorded(tmp_path, lines))
    assert engines.instances == 3
    for name, times in (("a", QUICK), ("gpu-1-llm", SLOW), ("gpu-2-llm", SLOW)):
        found = engines.learned.of(name)
        assert found.step_ms(4, 3000) == pytest.approx(times.step_ms(4, 3000), rel=0.1)
    figures = {each.name: each for each in engines.error.figures} if engines.error else {}
    assert abs(figures["TPOT p50"].error) < 0.1
    summary = compare(recorded(tmp_path, lines), ["hybrid"], engines, ReplaySlo())["hybrid"]
    assert summary.tpot_ms.p50 == pytest.approx(figures["TPOT p50"].recorded, rel=0.1)


def test_models_that_all_engines_serve_are_learned_together(tmp_path: Path) -> None:
    lines = entries(played(spread(60), FAST, instances=2))
    for number, line in enumerate(lines):
        line["model"] = f"adapter-{number % 5}"
        line["candidates"] = [{"instance": name} for name in ("gpu-1-llm", "gpu-2-llm")]
    engines = learned_from(recorded(tmp_path, lines))
    assert engines.instances == 2
    assert not engines.learned.own
