"""When a request is sent again and when not: the safe failures, their number, their budget, and what is passed on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, SchedulingSettings
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

BUSY = ok('{"error":"busy"}', "Retry-After: 7", status="503 Service Unavailable")
RESET = raw(b"", then="reset")


MESSAGES, COMPLETIONS, EMBEDDINGS = "/v1/messages", "/v1/completions", "/v1/embeddings"


def tries(answers: list[Answer], retries: int | None = None, kind: str = "auto") -> list[int]:
    """How often each of several engines heard of one request that all of them fail."""
    scheduling = SchedulingSettings() if retries is None else SchedulingSettings(retries=retries)
    with ExitStack() as stack:
        engines = [stack.enter_context(RogueEngine(answer)) for answer in answers]
        instances = [InstanceSettings(url=engine.url, kind="mixed", engine=kind) for engine in engines]
        g = stack.enter_context(gateway(*instances, scheduling=scheduling))
        g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
        caller = stack.enter_context(Caller(g.port))
        reply = caller.chat().reply()
        assert reply.status in (502, 503) or b"error" in reply.body
        return sorted(len(engine.requests) for engine in engines)


@pytest.mark.parametrize("answer", [BUSY, RESET], ids=["503", "reset"])
@pytest.mark.parametrize(
    ("retries", "heard"), [(None, [0, 0, 1, 1, 1]), (0, [0, 0, 0, 0, 1]), (1, [0, 0, 0, 1, 1]), (9, [1] * 5)]
)
def test_a_request_goes_to_as_many_others_as_is_set_and_to_none_twice(
    answer: Answer, retries: int | None, heard: list[int]
) -> None:
    assert tries([answer] * 5, retries) == heard


def test_retries_stay_within_their_budget() -> None:
    requests = 60
    health = HealthSettings(failures=10_000)
    with RogueEngine(BUSY) as a, RogueEngine(BUSY) as b, gateway(a, b, health=health) as g:
        with Caller(g.port) as caller:
            assert {caller.chat().reply().status for _ in range(requests)} == {503}
        sent_again = len(a.requests) + len(b.requests) - requests
        assert 10 <= sent_again <= 10 + 0.2 * requests


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_when_all_refuse_the_last_refusal_is_passed_on_as_it_is(status: str) -> None:
    first = ok("first", "Retry-After: 1", status=status)
    last = ok("last", "Retry-After: 9", status=status)
    with RogueEngine(first) as a, RogueEngine(last) as b, gateway(a, b) as g, Caller(g.port) as caller:
        said = {(r.status, r.headers["retry-after"], r.body) for r in (caller.chat().reply() for _ in "12")}
        assert said <= {(int(status[:3]), "1", b"first"), (int(status[:3]), "9", b"last")}
        assert len(a.requests) == len(b.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        raw(sse("one"), then="reset"),
        raw(sse("one"), then="close"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", then="reset"),
        raw(b"HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\nhalf", then="reset"),
    ],
    ids=["stream reset", "stream closed", "plain body reset", "last refusal reset"],
)
def test_after_a_byte_was_delivered_it_is_sent_to_no_one_else(answer: Answer) -> None:
    with RogueEngine(answer) as a, gateway(a, scheduling=SchedulingSettings(retries=2)) as g:
        with RogueEngine(ok("other")) as b:
            g.ask(lambda r: r.fleet.add(InstanceSettings(url=b.url, name="b", kind="mixed")))
            g.until(lambda r: r.gateway.engines["b"].instance.state is EngineState.READY)
            g.ask(lambda r: r.fleet.drain("b"))
            with Caller(g.port) as caller:
                caller.chat()
                a.arrived.get(timeout=5)
                reply = caller.reply()
            assert not reply.complete
            assert b"other" not in reply.body
            assert (len(a.requests), len(b.requests)) == (1, 0)


def test_a_poison_request_visits_one_engine_only() -> None:
    oops = ok("{}", status="500 Internal Server Error")
    with RogueEngine(oops) as a, RogueEngine(oops) as b, RogueEngine(oops) as c:
        with gateway(a, b, c) as g, Caller(g.port) as caller:
            assert caller.chat().reply().status == 500
            assert sum(len(engine.requests) for engine in (a, b, c)) == 1


def test_an_engine_that_says_it_shuts_down_gets_nothing_new() -> None:
    body = '{"error":{"message":"cannot schedule new futures after shutdown"}}'
    draining = ok(body, status="500 Internal Server Error")
    with RogueEngine(draining) as a, RogueEngine(ok("good")) as b:
        instances = [
            InstanceSettings(url=engine.url, name=name, kind="llm", engine="vllm")
            for engine, name in ((a, "a"), (b, "b"))
        ]
        with gateway(*instances, health=HealthSettings(interval_s=60)) as g, Caller(g.port) as caller:
            while not a.requests:
                assert caller.chat().reply().body == b"good"
            assert g.ask(lambda r: r.gateway.engines["a"].instance.state) is EngineState.DRAINING
            heard = len(a.requests)
            assert [caller.chat().reply().body for _ in range(5)] == [b"good"] * 5
            assert len(a.requests) == heard == 1


CORE_DIED = {
    "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "code": 500,
}
DIED: dict[str, tuple[str, Answer]] = {
    "stream": (CHAT, raw(sse(json.dumps({"error": CORE_DIED}), "[DONE]") + b"0\r\n\r\n")),
    "stream, without its end": (CHAT, raw(sse(json.dumps({"error": CORE_DIED})))),
    "stream of completions": (COMPLETIONS, raw(sse(json.dumps({"error": CORE_DIED})))),
    "an older stream": (CHAT, raw(sse(json.dumps({"object": "error", **CORE_DIED})))),
    "message": (
        MESSAGES,
        raw(
            sse()
            + chunk(
                b"event: error\ndata: %b\n\n" % json.dumps({"type": "error", "error": CORE_DIED}).encode()
            )
        ),
    ),
    "stream without chunks": (
        CHAT,
        raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: %b\n\n"
            % json.dumps({"error": CORE_DIED}).encode(),
            then="close",
        ),
    ),
    "plain": (CHAT, ok(json.dumps({"error": CORE_DIED}), status="500 Internal Server Error")),
    "embeddings": (EMBEDDINGS, ok(json.dumps({"error": CORE_DIED}), status="500 Internal Server Error")),
}


VECTORS = b'{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}]}'
GOOD = {EMBEDDINGS: VECTORS} | dict.fromkeys((CHAT, COMPLETIONS, MESSAGES), b"good")


def asked(path: str) -> bytes:
    if path == EMBEDDINGS:
        return post(path, json.dumps({"model": "m", "input": "a"}).encode())
    if path == COMPLETIONS:
        return post(path, json.dumps({"model": "m", "prompt": "a", "stream": True}).encode())
    return post(path, chat(stream=path == MESSAGES, max_tokens=9))


@contextmanager
def dead_and_alive(
    dead: Answer, good: bytes = b"good"
) -> Iterator[tuple[InProcess, Caller, RogueEngine, RogueEngine]]:
    """The dead engine is asked first."""
    with RogueEngine(dead) as a, RogueEngine(ok(good)) as b:
        instances = [
            InstanceSettings(url=engine.url, name=name, kind="mixed", engine="vllm")
            for engine, name in ((a, "a"), (b, "b"))
        ]
        scheduling = SchedulingSettings(policy="round_robin")
        health = HealthSettings(interval_s=60)
        with gateway(*instances, health=health, scheduling=scheduling) as g, Caller(g.port) as caller:
            g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
            yield g, caller, a, b


@pytest.mark.parametrize(("path", "died"), DIED.values(), ids=DIED)
def test_a_request_whose_engine_died_before_its_first_token_is_served_by_another(
    path: str, died: Answer
) -> None:
    with dead_and_alive(died, GOOD[path]) as (g, caller, a, _):
        while not a.requests:
            reply = caller.send(asked(path)).reply()
            assert (reply.status, reply.body, reply.complete) == (200, GOOD[path], True)
        assert g.ask(lambda r: r.gateway.engines["a"].instance.state) is EngineState.EJECTED
        assert [caller.send(asked(path)).reply().body for _ in range(4)] == [GOOD[path]] * 4
        assert len(a.requests) == 1


def test_a_request_that_kills_its_engines_visits_as_many_as_are_set() -> None:
    assert tries([DIED["stream"][1]] * 5, kind="vllm") == [0, 0, 1, 1, 1]


NOT_DEAD: dict[str, Answer] = {
    "another error": raw(sse(json.dumps({"error": {"message": "out of range", "code": 400}}), "[DONE]")),
    "a text that quotes it": raw(
        sse(json.dumps({"choices": [{"delta": {"content": CORE_DIED["message"]}}]}))
    ),
    "after a token": raw(
        sse(json.dumps({"choices": [{"delta": {"content": "x"}}]}), json.dumps({"error": CORE_DIED}))
    ),
    "a 400 that quotes it": ok(json.dumps({"error": CORE_DIED}), status="400 Bad Request"),
}


@pytest.mark.parametrize("answer", NOT_DEAD.values(), ids=NOT_DEAD)
def test_other_errors_and_what_comes_after_a_token_are_passed_on(answer: Answer) -> None:
    with dead_and_alive(answer) as (_, caller, a, b):
        while not a.requests:
            caller.send(asked(CHAT))
            reply = caller.head()
            seen = caller.chunk() if "transfer-encoding" in reply.headers else caller.take(1)
            if b.requests and not a.requests:
                caller.take(int(reply.headers["content-length"]) - 1)
        assert seen != b"g"


def test_a_stale_connection_is_replaced_once_and_then_it_is_the_engines_fault() -> None:
    closes = raw(b"", then="close")
    with RogueEngine(ok("good"), closes) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().reply().status == 200
        assert caller.chat().reply().status == 502
        assert len(engine.requests) == 3


def test_a_connection_that_breaks_behind_the_head_of_its_answer_was_not_stale() -> None:
    head_only = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", then="close")
    with (
        RogueEngine(ok("good"), head_only, ok("again")) as engine,
        gateway(engine) as g,
        Caller(g.port) as caller,
    ):
        assert caller.chat().reply().status == 200
        assert caller.chat().reply().status == 502
        assert len(engine.requests) == 2


@pytest.mark.parametrize("end", ["close", "reset"])
def test_engines_that_close_each_connection_behind_its_answer_lose_no_request(end: str) -> None:
    """The close crosses with the next request: whichever comes first, the caller sees none of it."""

    def answer(wire: Wire) -> None:
        ok("good")(wire)
        wire.reset() if end == "reset" else wire.close()

    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert {caller.chat().reply().status for _ in range(200)} == {200}


def test_the_only_engine_is_asked_again_after_any_number_of_bad_answers() -> None:
    answers = (*[RESET] * 12, ok("good"))
    health = HealthSettings(interval_s=60)
    with RogueEngine(*answers) as engine, gateway(engine, health=health) as g, Caller(g.port) as caller:
        statuses = [caller.chat().reply().status for _ in range(13)]
        assert statuses[-1] == 200
        assert set(statuses[:-1]) <= {502, 503}
