"""``explain`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.explain import _came, _ttft_from
from sage_inference.cli.numbers import milliseconds
from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.support.command import sage
from tests.support.gateway import running_gateway


def test_a_decision_is_explained_to_people_and_scripts() -> None:
    with running_gateway(args=("--simulate",)) as g:
        g.wait_instances()
        with g.client() as client:
            body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status()
        shown = sage(g.home, "explain", answer.headers["x-request-id"])
        assert shown.returncode == 0, shown.stderr
        assert "SLO: first token in 1,000 ms (default), 50 ms a token after it (default)" in shown.stdout
        assert "attempt 1: simulated-vllm, only instance" in shown.stdout
        assert "chosen" in shown.stdout
        assert "done (status 200)" in shown.stdout
        assert "the first byte comes with the whole answer; came " in shown.stdout
        found = json.loads(sage(g.home, "explain", answer.headers["x-request-id"], "--json").stdout)
        assert mistakes(found, ANSWERS["explain"]) == []
        [attempt] = found["attempts"]
        assert (attempt["in_one_piece"], attempt["predicted_first_byte_ms"]) == (True, None)
        assert attempt["predicted_prompt_ms"] < attempt["first_byte_ms"]
        for stream, said in ((False, "whole answer predicted after "), (True, "first byte predicted after ")):
            with g.client() as client:
                answer = client.post("/v1/chat/completions", json={**body, "stream": stream})
                answer.read()
            assert said in sage(g.home, "explain", answer.headers["x-request-id"]).stdout
        with g.client() as client:
            answer = client.post("/v1/chat/completions", json=body, headers={"x-sage-priority": "low"})
        shown = sage(g.home, "explain", answer.headers["x-request-id"])
        assert "priority low\nSLO: first token in 30,000 ms (30 x default, for low), " in shown.stdout
        unknown = sage(g.home, "explain", "nope/ä")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert "no decision for request nope/ä is kept" in unknown.stderr
        assert "A request that still waits has no decision yet" in unknown.stderr


def test_without_a_gateway_there_is_nothing_to_explain(tmp_path: Path) -> None:
    failed = sage(tmp_path, "explain", "req-1")
    assert failed.returncode == 3
    assert "not running" in failed.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "came 11 ms after it was sent, 5,614 ms after arrival (in time)"),
        ({"ttft": 5614}, "came 11 ms after it was sent, 5,614 ms after arrival (in time)"),
        ({"ttft": 5014}, "came 11 ms after it was sent, 5,614 ms after arrival (late by 600 ms)"),
        ({"ttft": 5613.6}, "came 11 ms after it was sent, 5,614 ms after arrival (late by less than 1 ms)"),
        (
            {"ttft": 1000, "status": None},
            "came 11 ms after it was sent, 5,614 ms after arrival (late by 4,614 ms)",
        ),
        ({"ttft": 1000, "status": 500}, "came 11 ms after it was sent, 5,614 ms after arrival"),
        ({"leg": "prefill"}, "came 11 ms after it was sent, 5,614 ms after arrival"),
        ({"in_one_piece": True}, "came 11 ms after it was sent, 5,614 ms after arrival"),
    ],
)
def test_the_first_byte_is_judged_from_the_arrival(changed: dict[str, Any], said: str) -> None:
    slo = {"ttft_ms": changed.pop("ttft", 9000)}
    attempt = {"waited_ms": 5603, "first_byte_ms": 11, "status": 200, "leg": None, "slo": slo, **changed}
    assert _came(attempt) == said


def test_an_older_gateway_states_no_factor() -> None:
    attempt: dict[str, Any] = {"priority": 3, "slo": {"ttft_from": "scheduling.slo"}}
    assert _ttft_from(attempt) == "scheduling.slo"
    attempt["slo"]["ttft_times"] = 30.0
    assert _ttft_from(attempt) == "30 x scheduling.slo, for low"


@pytest.mark.parametrize(
    ("ms", "shown"),
    [(0.001, "0.001"), (0.4, "0.4"), (12.5, "12.5"), (50.0, "50"), (999.96, "1000"), (1000, "1,000"),
     (2500.4, "2,500"), (1_234_567, "1,234,567"), (30 * 86_400_000, "2,592,000,000")],
)  # fmt: skip
def test_no_time_is_shown_as_a_power_of_ten(ms: float, shown: str) -> None:
    assert milliseconds(ms) == shown
