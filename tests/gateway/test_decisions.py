"""The decision record of a running gateway: in headers, over /admin, in its file, and back into replay."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from sage_inference.cli.schemas import ATTEMPT
from sage_inference.config.settings import InstanceSettings, SchedulingSettings
from sage_inference.replay.workload import read_workload
from tests.cli.shape import mistakes
from tests.support.decisions import attempts
from tests.support.inprocess import ADMIN, gateway
from tests.support.rogue import RogueEngine, ok, raw, sse
from tests.support.wire import Caller

SECRET = "the launch code is 0000"
USED = '{"usage":{"prompt_tokens":70,"completion_tokens":7,"total_tokens":77}}'


def two(first: RogueEngine, second: RogueEngine) -> tuple[InstanceSettings, InstanceSettings]:
    return (
        InstanceSettings(url=first.url, name="first", kind="llm"),
        InstanceSettings(url=second.url, name="second", kind="llm"),
    )


def test_who_asks_why_is_told_and_the_engine_is_not_asked() -> None:
    with (
        RogueEngine(ok(USED)) as a,
        RogueEngine(ok(USED)) as b,
        gateway(*two(a, b)) as g,
        Caller(g.port) as c,
    ):
        told = c.chat("x-sage-why: 1").reply().headers["x-sage-why"]
        assert "predicted: first " in told
        assert ", second " in told
        assert "x-sage-why" not in c.chat().reply().headers
        assert b"x-sage-why" not in b"".join([*a.requests, *b.requests])


def test_an_answered_request_is_explained_without_its_text() -> None:
    with (
        RogueEngine(ok(USED)) as a,
        RogueEngine(ok(USED)) as b,
        gateway(*two(a, b)) as g,
        Caller(g.port) as c,
    ):
        message = [{"role": "user", "content": SECRET * 40}]
        instance = c.chat("x-request-id: mine/1", messages=message).reply().headers["x-sage-instance"]
        [attempt] = attempts(g, "mine/1")
        assert (attempt["instance"], attempt["outcome"], attempt["status"]) == (instance, "done", 200)
        assert (attempt["prompt_tokens"], attempt["completion_tokens"]) == (70, 7)
        assert 0 <= attempt["first_byte_ms"] <= attempt["duration_ms"]
        assert [each["instance"] for each in attempt["candidates"]] == ["first", "second"]
        assert attempt["blocks"]
        assert "launch" not in json.dumps(attempt)


def test_each_attempt_of_a_retried_request_is_kept() -> None:
    refusing = ok("{}", status="503 Service Unavailable")
    with (
        RogueEngine(refusing) as a,
        RogueEngine(ok(USED)) as b,
        gateway(*two(a, b)) as g,
        Caller(g.port) as c,
    ):
        ids = [f"r{number}" for number in range(4)]
        for each in ids:
            assert c.chat(f"x-request-id: {each}").reply().status == 200
        found = [attempts(g, each) for each in ids]
        retried = next(each for each in found if len(each) == 2)
        assert [(e["instance"], e["outcome"], e["status"]) for e in retried] == [
            ("first", "retried", 503),
            ("second", "done", 200),
        ]


def test_a_broken_stream_was_cut_and_a_caller_that_left_cancelled() -> None:
    with RogueEngine(raw(sse('{"a":1}'), then="reset")) as a, gateway(a) as g, Caller(g.port) as c:
        c.chat("x-request-id: cut", stream=True).rest()
        assert attempts(g, "cut")[0]["outcome"] == "cut"
    with RogueEngine(lambda wire: wire.wait_for_peer_to_leave()) as a, gateway(a) as g:
        with Caller(g.port) as c:
            c.chat("x-request-id: left")
            g.until(lambda r: r.gateway.in_flight == 1)
            assert attempts(g, "left")[0]["outcome"] is None
        g.until(lambda r: r.gateway.in_flight == 0)
        assert attempts(g, "left")[0]["outcome"] == "cancelled"


def test_an_unknown_request_is_a_404_that_says_what_is_kept() -> None:
    with RogueEngine(ok()) as a, gateway(a) as g, httpx.Client(trust_env=False, verify=False) as client:
        answer = client.get(f"{g.url}/admin/decisions/nope", headers=ADMIN)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "decision_not_found")
        assert "the last 1024" in answer.json()["error"]["message"]


def test_what_the_gateway_wrote_can_be_replayed(tmp_path: Path) -> None:
    file = tmp_path / "decisions.jsonl"
    scheduling = SchedulingSettings(record_file=str(file))
    with RogueEngine(ok(USED)) as a, gateway(a, scheduling=scheduling) as g, Caller(g.port) as c:
        for _ in range(3):
            assert c.chat().reply().status == 200
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [mistakes(each, ATTEMPT) for each in lines] == [[]] * 3
    workload = read_workload(file)
    assert [(job.prompt, job.output) for job in workload.jobs] == [(70, 7)] * 3


@pytest.mark.parametrize("late_binding", [True, False])
def test_the_record_has_what_a_replay_learns_from(tmp_path: Path, late_binding: bool) -> None:
    file = tmp_path / "decisions.jsonl"
    scheduling = SchedulingSettings(
        record_file=str(file),
        late_binding=late_binding,
        policy="least_loaded",
        policies={"other": "random"},
    )
    with RogueEngine(ok(USED)) as a, gateway(a, scheduling=scheduling) as g:
        with Caller(g.port) as one, Caller(g.port) as two:
            for caller in (one, two, one, one):
                assert caller.chat().reply().status == 200
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [mistakes(each, ATTEMPT) for each in lines] == [[]] * 4
    first, second, third, fourth = (each["connection"] for each in lines)
    assert first == third == fourth != second
    assert 0 < first < 1 << 53  # exact in any reader of JSON
    assert {each["policy"] for each in lines} == {"least_loaded"}
    assert {each["choices"] for each in lines} == {1}
    windows = [each["engine"]["window_tokens"] for each in lines]
    assert all(windows) if late_binding else windows == [None] * 4
    assert all(each["engine"]["kv_tokens"] > 0 for each in lines)


def test_connections_of_two_runs_have_different_numbers() -> None:
    numbers = set()
    for _ in range(2):
        with RogueEngine(ok(USED)) as a, gateway(a) as g, Caller(g.port) as c:
            assert c.chat("x-request-id: one").reply().status == 200
            numbers.add(attempts(g, "one")[0]["connection"])
    assert len(numbers) == 2
