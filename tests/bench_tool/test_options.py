"""Defaults, and combinations that make no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_inference.bench.errors import OptionConflict, OptionError
from sage_inference.bench.exchange import Kind
from sage_inference.bench.options import Given, check
from sage_inference.bench.plan import Closed, Open, Plan, Replay
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.target import Target


def planned(**given: Any) -> Plan:
    checked = check(Given(**given))
    return checked.plan(Target("h", 1), dict.fromkeys(checked.mix, "m"))


def test_alone_it_is_a_closed_loop_of_streams_for_10_seconds() -> None:
    plan = planned()
    assert (plan.load, plan.duration_s, plan.requests) == (Closed(16), 10.0, None)
    assert list(plan.shape.mix) == [Kind.STREAM]
    assert (plan.warmup_s, plan.slo, plan.ceiling) == (0.0, SloLimits(), True)


def test_a_rate_is_an_open_loop_and_a_number_of_requests_ends_it() -> None:
    plan = planned(rate=5.0, requests=7, slo="e2e=9")
    assert (plan.load, plan.duration_s, plan.requests, plan.slo) == (Open(5.0), None, 7, SloLimits(e2e=9))


def test_a_trace_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t_ms,in_tokens,out_tokens\n0,1,2\n")
    plan = planned(trace=str(tmp_path / "t.csv"), speedup=4.0)
    assert isinstance(plan.load, Replay)
    assert (plan.load.speedup, len(plan.load.rows), plan.duration_s) == (4.0, 1, None)


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 0.0},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"rate": -3.0},
        {"concurrency": 0},
        {"concurrency": 20001},
        {"duration_s": 0.0},
        {"requests": 0},
        {"warmup_s": -1.0},
        {"timeout_s": 0.0},
        {"speedup": 2.0},
        {"speedup": 0.0, "trace": "t.csv"},
    ],
    ids=str,
)
def test_a_number_out_of_reach_names_its_option(given: dict[str, Any]) -> None:
    name = next(iter(given)).removesuffix("_s")
    with pytest.raises(OptionError) as error:
        check(Given(**given))
    assert str(error.value).startswith(f"--{name}: ")


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"rate": 1.0, "concurrency": 2}, "--rate and --concurrency"),
        ({"requests": 1, "duration_s": 2.0}, "--requests and --duration"),
        ({"requests": 1, "warmup_s": 2.0}, "--requests and --warmup"),
        ({"trace": "t.csv", "rate": 1.0}, "--trace and --rate"),
        ({"trace": "t.csv", "concurrency": 1}, "--trace and --concurrency"),
        ({"trace": "t.csv", "input_tokens": "5"}, "--trace and --input-tokens"),
        ({"trace": "t.csv", "output_tokens": "5"}, "--trace and --output-tokens"),
        ({"trace": "t.csv", "texts": "5"}, "--trace and --texts"),
    ],
    ids=str,
)
def test_options_that_exclude_each_other(given: dict[str, Any], options: str) -> None:
    with pytest.raises(OptionConflict) as error:
        check(Given(**given))
    assert str(error.value).startswith(f"{options} exclude each other: ")
