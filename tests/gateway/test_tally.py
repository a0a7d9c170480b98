"""The counts of ended requests, against the tokens that their engines reported."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager

import pytest

from sage_inference.config.settings import InstanceSettings
from sage_inference.telemetry.tally import OTHER, Counts
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

USAGE = {"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5}
CACHED = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
DELTA = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
LAST = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


def plain(usage: object) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return ok(json.dumps({"model": "m", "choices": [choice], "usage": usage, "prompt_logprobs": None}))


def stream(*events: str) -> Answer:
    return raw(sse(*events) + b"0\r\n\r\n")


def one(engine: RogueEngine, kind: str = "llm") -> AbstractContextManager[InProcess]:
    return gateway(InstanceSettings(url=engine.url, name="only", kind=kind))


def counted(door: InProcess) -> dict[tuple[str, int, str, str, str], Counts]:
    door.ask(lambda _: None)  # the records of the last request are made by then
    return door.ask(lambda running: dict(running.gateway.stats.tally.series))


def the_only(door: InProcess) -> Counts:
    ((kind, counts),) = counted(door).items()
    assert kind == (CHAT, 200, "m", "only", "")
    return counts


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (plain(USAGE), {}, (7, 5, 0)),
        (plain(CACHED), {}, (7, 5, 4)),
        (plain({**CACHED, "completion_tokens_details": {"reasoning_tokens": 1}}), {}, (7, 5, 4)),
        (plain(None), {}, (0, 0, 0)),
        (
            stream(DELTA, LAST, json.dumps({"choices": [], "usage": CACHED}), "[DONE]"),
            {"stream": True},
            (7, 5, 4),
        ),
    ],
    ids=["plain", "cached", "two details", "no usage", "stream"],
)
def test_the_tokens_are_those_that_the_engine_reported(
    answer: Answer, fields: dict[str, bool], expected: tuple[int, int, int]
) -> None:
    with RogueEngine(answer) as engine, one(engine) as door, Caller(door.port) as caller:
        for _ in range(3):
            caller.chat(**fields).reply()
        counts = the_only(door)
    assert counts.requests == 3
    assert (counts.prompt, counts.completion, counts.cached) == tuple(3 * tokens for tokens in expected)
    assert (counts.estimated_prompt, counts.estimated_completion) == (0, 0)
    assert counts.busy_s > 0


def test_a_stream_without_usage_is_estimated_and_counted_apart() -> None:
    with RogueEngine(stream(DELTA, DELTA, DELTA, LAST, "[DONE]")) as engine, one(engine) as door:
        with Caller(door.port) as caller:
            caller.chat(stream=True).reply()
        counts = the_only(door)
    assert (counts.prompt, counts.completion) == (0, 0)
    assert counts.estimated_prompt > 0
    assert 1 <= counts.estimated_completion <= 5


def test_the_texts_of_embedding_requests_are_counted() -> None:
    item = {"object": "embedding", "index": 0, "embedding": [0.25] * 4}
    body = {"object": "list", "model": "m", "usage": {"prompt_tokens": 6, "total_tokens": 6}}
    answer = ok(json.dumps({**body, "data": [item, {**item, "index": 1}]}))
    wanted = json.dumps({"model": "m", "input": ["one", "two"]}).encode()
    with RogueEngine(answer) as engine, one(engine, "embedding") as door, Caller(door.port) as caller:
        assert caller.send(post("/v1/embeddings", wanted)).reply().status == 200
        ((kind, counts),) = counted(door).items()
    assert kind == ("/v1/embeddings", 200, "m", "only", "")
    assert (counts.requests, counts.texts, counts.prompt) == (1, 2, 6)


def test_names_that_callers_make_up_do_not_become_series() -> None:
    with RogueEngine(plain(USAGE)) as engine, one(engine) as door, Caller(door.port) as caller:
        for number in range(20):
            assert caller.send(post(CHAT, chat(f"made up {number}"))).reply().status == 404
        assert list(counted(door)) == [(CHAT, 404, OTHER, "", "")]


def test_users_are_counted_apart_once_somebody_asks_for_them() -> None:
    with RogueEngine(plain(USAGE)) as engine, one(engine) as door, Caller(door.port) as caller:
        caller.chat(user="ada").reply()
        assert door.ask(lambda running: running.gateway.stats.tally.take_users()) == {}
        door.ask(lambda running: setattr(running.gateway.stats.tally, "follows_users", True))
        caller.chat(user="ada").reply()
        caller.chat().reply()
        door.ask(lambda _: None)
        taken = door.ask(lambda running: running.gateway.stats.tally.take_users())
        assert {(user, counts.requests, counts.prompt) for (_, user), counts in taken.items()} == {
            ("ada", 1, 7)
        }
        assert the_only(door).requests == 3
