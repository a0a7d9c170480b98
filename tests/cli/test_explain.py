"""``explain`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

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
        assert "the first byte comes with the whole answer; came after" in shown.stdout
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
        unknown = sage(g.home, "explain", "nope/ä")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert "no decision for request nope/ä is kept" in unknown.stderr


def test_without_a_gateway_there_is_nothing_to_explain(tmp_path: Path) -> None:
    failed = sage(tmp_path, "explain", "req-1")
    assert failed.returncode == 3
    assert "not running" in failed.stderr
