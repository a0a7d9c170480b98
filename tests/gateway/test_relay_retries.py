"""When a request is sent again and when not: the safe failures, their number, their budget, and what is passed on."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, SchedulingSettings
from sage_inference.types import EngineState
from tests.support.inprocess import gateway
from tests.support.rogue import Answer, RogueEngine, Wire, ok, raw, sse
from tests.support.wire import Caller

BUSY = ok('{"error":"busy"}', "Retry-After: 7", status="503 Service Unavailable")
RESET = raw(b"", then="reset")


def tries(answers: list[Answer], retries: int | None = None) -> list[int]:
    """How often each of several engines heard of one request that all of them fail."""
    scheduling = SchedulingSettings() if retries is None else SchedulingSettings(retries=retries)
    with ExitStack() as stack:
        engines = [stack.enter_context(RogueEngine(answer)) for answer in answers]
        g = stack.enter_context(gateway(*engines, scheduling=scheduling))
        g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
        caller = stack.enter_context(Caller(g.port))
        assert caller.chat().reply().status in (502, 503)
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
