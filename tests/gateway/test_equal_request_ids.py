"""Callers may give several requests one id at the same time: their engine never sees two of them."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from sage_inference.config.settings import (
    LoggingSettings,
    SchedulingSettings,
    TimeoutSettings,
)
from sage_inference.gateway.relay.exchange import Exchange
from tests.support.access_lines import Lines
from tests.support.decisions import attempts
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

ID = re.compile(rb"\r\nx-request-id: ([^\r]*)\r\n", re.I)
MINE = "x-request-id: mine"


def held(wire: Wire) -> None:
    assert wire.engine.go.wait(20)
    ok()(wire)


def as_vllm() -> Callable[[Wire], None]:
    """Fails a request whose id it is working on; answers when all may go."""
    working: set[bytes] = set()
    lock = threading.Lock()

    def answer(wire: Wire) -> None:
        own = id_of(wire.head)
        with lock:
            known = own in working
            working.add(own)
        if known:
            ok('{"error":"in use"}', status="400 Bad Request")(wire)
            return
        held(wire)
        with lock:
            working.discard(own)

    return answer


def id_of(head: bytes) -> bytes:
    [found] = ID.findall(head)
    return bytes(found)


def of_engine(engine: RogueEngine) -> list[bytes]:
    return [id_of(request) for request in engine.requests]


def free_again(g: InProcess) -> None:
    """All ended, and nothing is kept of them."""
    g.until(lambda r: r.gateway.in_flight == 0)
    with Caller(g.port) as caller:
        caller.chat(MINE).reply()


@pytest.mark.parametrize("most", [2, 20])
def test_requests_of_one_id_at_once_all_succeed(most: int) -> None:
    with RogueEngine(as_vllm()) as engine, gateway(engine) as g, ExitStack() as stack:
        callers = [stack.enter_context(Caller(g.port)).chat(MINE) for _ in range(most)]
        for _ in range(most):
            engine.arrived.get(timeout=10)
        assert len(set(of_engine(engine))) == most
        assert of_engine(engine).count(b"mine") == 1
        engine.go.set()
        answers = [caller.reply() for caller in callers]
        assert {(answer.status, answer.headers["x-request-id"]) for answer in answers} == {(200, "mine")}
        free_again(g)
        assert of_engine(engine)[-1] == b"mine"


def test_one_after_another_keep_it() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for _ in range(3):
            assert caller.chat(MINE).reply().status == 200
        assert of_engine(engine) == [b"mine"] * 3


def test_streams_and_pipelined_requests_count_too() -> None:
    def streamed(wire: Wire) -> None:
        wire.send(sse("{}"))
        assert wire.engine.go.wait(20)
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with RogueEngine(streamed) as engine, gateway(engine) as g, Caller(g.port) as one, Caller(g.port) as two:
        one.chat(MINE, stream=True).head()
        two.send(2 * post(CHAT, chat(stream=True), MINE)).head()
        engine.go.set()
        two.chunk()
        two.chunk()
        assert two.chunk() == b""
        assert two.reply().headers["x-request-id"] == "mine"
        assert len(set(of_engine(engine)[:2])) == 2


def test_a_refused_one_does_not_free_the_id_of_another() -> None:
    with RogueEngine(as_vllm()) as engine, gateway(engine) as g, ExitStack() as stack:
        callers = [stack.enter_context(Caller(g.port)) for _ in range(3)]
        callers[0].chat(MINE)
        engine.arrived.get(timeout=10)
        for refused in (chat("absent"), b"{", b"[]"):
            answer = callers[1].send(post(CHAT, refused, MINE)).reply()
            assert answer.status in (400, 404)
            assert answer.headers["x-request-id"] == "mine"
        callers[2].chat(MINE)
        engine.arrived.get(timeout=10)
        engine.go.set()
        assert [callers[number].reply().status for number in (0, 2)] == [200, 200]


def test_after_its_caller_left_an_engine_may_still_be_at_it() -> None:
    with RogueEngine(raw("", then="silent"), ok()) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            caller.chat(MINE)
            engine.arrived.get(timeout=10)
        engine.left.get(timeout=10)
        with Caller(g.port) as caller:
            assert caller.chat(MINE).reply().headers["x-request-id"] == "mine"
        assert of_engine(engine)[0] == b"mine" != of_engine(engine)[1]


def test_after_its_time_was_up_an_engine_may_still_be_at_it() -> None:
    timeouts = TimeoutSettings(first_byte_s=0.2)
    with RogueEngine(raw("", then="silent"), ok()) as engine, gateway(engine, timeouts=timeouts) as g:
        with Caller(g.port) as caller:
            answer = caller.chat(MINE).reply()
            assert (answer.status, answer.headers["x-request-id"]) == (504, "mine")
            assert caller.chat(MINE).reply().status == 200
        assert of_engine(engine)[0] == b"mine" != of_engine(engine)[1]


def test_a_retry_elsewhere_keeps_it() -> None:
    down = ok("{}", status="503 Service Unavailable")
    with RogueEngine(down) as a, RogueEngine(down, ok()) as b:
        with gateway(a, b, scheduling=SchedulingSettings(retries=1)) as g, Caller(g.port) as caller:
            caller.chat(MINE).reply()
        assert {*of_engine(a), *of_engine(b)} == {b"mine"}


def test_an_id_of_the_gateways_own_is_no_callers() -> None:
    """Such ids can be guessed: they are counted."""
    with RogueEngine(as_vllm()) as engine, gateway(engine) as g, ExitStack() as stack:
        first = stack.enter_context(Caller(g.port)).chat()
        engine.arrived.get(timeout=10)
        [seen] = of_engine(engine)
        following = seen[:-8] + b"%08x" % (int(seen[-8:], 16) + 2)
        others = [stack.enter_context(Caller(g.port)) for _ in range(4)]
        for caller, own in zip(others, (seen, following, None, None), strict=True):
            caller.chat(*([] if own is None else [f"x-request-id: {own.decode()}"]))
            engine.arrived.get(timeout=10)
        assert len(set(of_engine(engine))) == 5
        engine.go.set()
        answers = [caller.reply() for caller in (first, *others)]
        assert {answer.status for answer in answers} == {200}
        assert [answers[n].headers["x-request-id"] for n in (0, 1, 2)] == [
            seen.decode(),
            seen.decode(),
            following.decode(),
        ]


@pytest.mark.parametrize("texts", [["one"], ["one", "two"]])
def test_embedding_requests_of_one_id_at_once(texts: list[str]) -> None:
    answer = json.dumps(
        {"data": [{"index": n, "embedding": [1.0]} for n in range(len(texts))], "usage": {"prompt_tokens": 1}}
    )

    def waits(wire: Wire) -> None:
        assert wire.engine.go.wait(20)
        ok(answer)(wire)

    with RogueEngine(waits) as engine, gateway(engine) as g, ExitStack() as stack:
        callers = []
        for number in range(3):  # other texts each: equal ones would be one call
            caller = stack.enter_context(Caller(g.port))
            body = {"model": "m", "input": [f"{text} {number}" for text in texts]}
            callers.append(caller.send(post("/v1/embeddings", json.dumps(body).encode(), MINE)))
            if number == 0:
                engine.arrived.get(timeout=10)
        with Caller(g.port) as chatting:
            chatting.chat(MINE)
            engine.arrived.get(timeout=10)
            assert len(set(of_engine(engine))) == len(of_engine(engine)) >= 2
            engine.go.set()
            chatting.reply()
        assert [caller.reply().headers["x-request-id"] for caller in callers] == ["mine"] * 3


def test_both_ids_are_logged_and_explained(lines: Lines) -> None:
    with RogueEngine(as_vllm()) as engine, gateway(engine, logging=LoggingSettings(access=True)) as g:
        with Caller(g.port) as one, Caller(g.port) as two:
            for caller in (one, two):
                caller.chat(MINE)
                engine.arrived.get(timeout=10)
            _, other = (found.decode() for found in of_engine(engine))
            engine.go.set()
            assert one.reply().status == two.reply().status == 200
        logged = [lines.one() for _ in range(2)]
        assert {line["request_id"] for line in logged} == {"mine"}
        assert {line["engine_request_id"] for line in logged} == {None, other}
        assert sum(f"id=mine engine_id={other}" in line["message"] for line in logged) == 1
        found = attempts(g, "mine")
        assert [(each["request_id"], each["caller_request_id"]) for each in found] == [
            ("mine", None),
            (other, "mine"),
        ]
        [again] = attempts(g, other)
        # From the wall clock, which is read anew for each answer.
        assert again.pop("arrived_ms") == pytest.approx(found[1].pop("arrived_ms"), abs=100)
        assert again == found[1]


def test_a_failure_of_the_gateways_own_names_both(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RogueEngine(held) as engine, gateway(engine) as g, Caller(g.port) as one, Caller(g.port) as two:
        one.chat(MINE)
        engine.arrived.get(timeout=10)
        original = Exchange._head
        left = [MemoryError]

        def failing(self: Exchange, *args: Any) -> bytes:
            if left:
                raise left.pop()("a fault put there by a test")
            return original(self, *args)

        two.chat(MINE)
        engine.arrived.get(timeout=10)
        other = of_engine(engine)[1].decode()
        monkeypatch.setattr(Exchange, "_head", failing)
        one.sock.close()  # only the second is answered
        g.until(lambda r: r.gateway.in_flight == 1)
        with caplog.at_level(logging.ERROR):
            engine.go.set()
            answer = two.reply()
        assert (answer.status, answer.headers["x-request-id"]) == (500, "mine")
        assert "id mine" in answer.error["message"]
        assert any(f"request mine ({other} at its engine)" in r.getMessage() for r in caplog.records)


def test_errors_in_anthropics_shape_name_the_callers() -> None:
    """Refused, failed by the engine, and cut within a stream."""
    cut = raw(sse('{"type":"message_start"}'), then="reset")
    path = "/v1/messages"
    with RogueEngine(held, raw("", then="reset"), cut, routes=[path]) as engine:
        no_retries = SchedulingSettings(retries=0)
        with gateway(engine, scheduling=no_retries) as g, Caller(g.port) as first, Caller(g.port) as caller:
            first.send(post(path, chat(), MINE))
            engine.arrived.get(timeout=10)
            for asked, status in ((chat("absent"), 404), (chat(), 502)):
                answer = caller.send(post(path, asked, MINE)).reply()
                named: Any = answer.json["request_id"]
                assert (answer.status, named) == (status, "mine")
            assert b'"request_id":"mine"' in caller.send(post(path, chat(stream=True), MINE)).rest()
            assert len(set(of_engine(engine))) == 3
            engine.go.set()
            assert first.reply().status == 200
