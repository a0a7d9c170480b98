"""Every timeout and limit, and the status a caller gets when it is reached."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, LimitSettings, TimeoutSettings
from sage_inference.types import EngineState
from tests.support.deaf import deaf
from tests.support.gateway import running_gateway
from tests.support.inprocess import ADMIN, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

RARELY = HealthSettings(interval_s=60)
LONG = {
    "connect_s": 60.0,
    "header_s": 60.0,
    "body_s": 60.0,
}  # so that no other timeout stands in for the one tested


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def one_slot(engine: RogueEngine) -> InstanceSettings:
    return InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)


# connect_s


def test_an_engine_that_accepts_no_connection_is_504_after_connect_s() -> None:
    timeouts = TimeoutSettings(connect_s=0.2)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts, health=RARELY) as g:
        engine.refuse()
        with deaf(engine.port), Caller(g.port) as caller:
            reply = caller.chat().reply()
            assert (reply.status, reply.error["type"]) == (504, "upstream_timeout")
            assert "0.2 s" in reply.error["message"]
        g.until(lambda r: r.gateway.in_flight == 0)


def test_where_another_engine_accepts_connections_it_is_asked_after_connect_s() -> None:
    timeouts = TimeoutSettings(connect_s=0.2)
    with RogueEngine(ok("bad")) as bad, RogueEngine(ok("good")) as good:
        with gateway(bad, good, timeouts=timeouts, health=RARELY) as g:
            bad.refuse()
            with deaf(bad.port), Caller(g.port) as caller:
                assert [caller.chat().reply().body for _ in range(3)] == [b"good"] * 3
                assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.EJECTED


# header_s, body_s, keep_alive_s


def drip(caller: Caller, data: bytes, every_s: float) -> None:
    """Sends byte by byte, slowly, until all is sent or nobody listens."""

    def send() -> None:
        try:
            for at in range(len(data)):
                caller.sock.sendall(data[at : at + 1])
                time.sleep(every_s)  # the drip itself
        except OSError:
            pass

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("first", [True, False], ids=["first request", "second request"])
def test_headers_that_come_byte_by_byte_still_have_header_s_in_all(first: bool) -> None:
    timeouts = TimeoutSettings(header_s=0.4)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        if not first:
            assert caller.chat().reply().status == 200
        drip(caller, post(CHAT, chat()), 0.05)
        reply = caller.reply()
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert len(engine.requests) == (0 if first else 1)


def test_a_connection_on_which_nothing_comes_is_closed_after_header_s() -> None:
    timeouts = TimeoutSettings(header_s=0.1)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        assert caller.closed()


def test_a_body_that_comes_slowly_but_within_body_s_a_piece_is_served() -> None:
    timeouts = TimeoutSettings(body_s=0.5)
    body = chat()[:-8]
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        request = post(CHAT, chat())
        caller.send(request[: -len(body)])
        drip(caller, request[-len(body) :], 0.02)  # over a second in all
        assert caller.reply().body == b"done"


def body_came_too_late(caller: Caller) -> None:
    reply = caller.reply()
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    assert "body" in reply.error["message"]
    assert caller.closed()


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
@pytest.mark.parametrize("pipelined", [False, True], ids=["alone", "pipelined"])
def test_a_body_that_stops_half_way_is_408_after_body_s(known: bool, pipelined: bool) -> None:
    timeouts = TimeoutSettings(body_s=0.2, header_s=60)
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        if known:
            assert caller.chat().reply().status == 200
        caller.send((post(CHAT, chat()) if pipelined else b"") + post(CHAT, chat())[:-3])
        if pipelined:
            assert caller.reply().status == 200
        body_came_too_late(caller)


TOKEN = f"authorization: {ADMIN['authorization']}"
POLICY = post("/admin/policy", b'{"policy":"random"}', TOKEN).replace(b"POST", b"PUT")
CHUNKED = POLICY.partition(b"\r\n\r\n")[0].replace(b"content-length: 19", b"transfer-encoding: chunked")
CHUNKED += b"\r\n\r\n13\r\n{"


@pytest.mark.parametrize("pipelined", [b"", post(CHAT, chat()), POLICY], ids=["alone", "relayed", "answered"])
@pytest.mark.parametrize("stalled", [POLICY[:-3], POLICY[:-19], CHUNKED], ids=["part", "none", "chunked"])
def test_a_body_for_the_application_that_stops_half_way_is_408_after_body_s(
    stalled: bytes, pipelined: bytes
) -> None:
    timeouts = TimeoutSettings(body_s=0.2, header_s=60)
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        caller.send(pipelined + stalled)
        if pipelined:
            assert caller.reply().status == 200
        body_came_too_late(caller)


def test_a_body_for_the_application_that_comes_slowly_is_served_and_its_connection_kept() -> None:
    timeouts = TimeoutSettings(body_s=0.3, keep_alive_s=20)
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        caller.send(POLICY[:-19])
        drip(caller, POLICY[-19:], 0.04)  # more than twice body_s in all
        assert b'"policy":"random"' in caller.reply().body
        time.sleep(0.6)  # idle for longer than body_s
        assert caller.chat().reply().body == b"done"


@pytest.mark.parametrize("behind", [b"", POLICY[:-3]], ids=["alone", "another's body behind it"])
def test_the_applications_own_time_is_not_the_bodys(behind: bytes) -> None:
    timeouts = TimeoutSettings(body_s=0.2, keep_alive_s=0.2)
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g:

        async def slowly(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["more_body"]:
                pass
            await asyncio.sleep(0.6)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        g.ask(lambda r: setattr(r.server.config, "loaded_app", slowly))
        with Caller(g.port) as caller:
            assert caller.send(POLICY[:-3]).send(POLICY[-3:] + behind).reply().status == 204
            if behind:
                assert caller.reply().status == 408


def test_an_answer_given_before_the_body_has_come_is_not_followed_by_another() -> None:
    timeouts = TimeoutSettings(body_s=0.2, keep_alive_s=20)
    foreign = POLICY.replace(b"host: 127.0.0.1", b"host: evil.example")
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        assert caller.send(foreign[:-3]).reply().status == 403
        caller.send(foreign[-3:-2])
        assert caller.closed()


def test_a_body_that_comes_after_its_answer_leaves_an_idle_connection() -> None:
    timeouts = TimeoutSettings(body_s=20, keep_alive_s=0.3)
    foreign = POLICY.replace(b"host: 127.0.0.1", b"host: evil.example")
    with (
        RogueEngine(ok("done")) as engine,
        gateway(engine, timeouts=timeouts) as g,
        Caller(g.port, 5) as caller,
    ):
        assert caller.send(foreign[:-3]).reply().status == 403
        caller.send(foreign[-3:])
        assert caller.closed()


def test_a_request_for_the_application_behind_a_relayed_one_does_not_stop_that_ones_time() -> None:
    timeouts = TimeoutSettings(first_byte_s=0.4)
    with RogueEngine(hang) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        caller.chat()
        engine.arrived.get(timeout=5)
        caller.send(b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert [caller.reply().status, caller.reply().status] == [504, 200]


def test_after_an_answer_the_keep_alive_time_begins_anew() -> None:
    timeouts = TimeoutSettings(keep_alive_s=0.3, header_s=5)
    with RogueEngine(ok("done")) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        for _ in range(4):
            assert caller.chat().reply().body == b"done"
            time.sleep(0.1)  # idle, but not for long
        began = time.monotonic()
        assert caller.closed()
        assert time.monotonic() - began < 2


def test_a_chunk_extension_without_end_is_refused_while_it_comes() -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(head + chunk(b"{"))
        caller.send(b"5;" + b"x" * 40_000)
        assert caller.reply().status == 400
        assert caller.closed()


# first_byte_s, stream_idle_s


@pytest.mark.parametrize(
    "answer",
    [
        hang,
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", then="silent"),
        raw(b"HTTP/1.1 2", then="silent"),
    ],
    ids=["nothing", "only a head", "half a head"],
)
def test_an_engine_without_a_first_byte_is_504_after_first_byte_s_and_asked_once(answer: object) -> None:
    timeouts = TimeoutSettings(first_byte_s=0.2, **LONG)
    with RogueEngine(answer) as a, RogueEngine(answer) as b:  # type: ignore[arg-type]
        with gateway(a, b, timeouts=timeouts) as g, Caller(g.port) as caller:
            reply = caller.chat().reply()
            assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
            assert len(a.requests) + len(b.requests) == 1
            g.until(lambda r: r.gateway.in_flight == 0)


def test_a_plain_body_that_falls_silent_is_cut_after_stream_idle_s() -> None:
    half = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf", then="silent")
    timeouts = TimeoutSettings(stream_idle_s=0.2)
    with RogueEngine(half) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.complete, reply.body) == (False, b"half")
        engine.left.get(timeout=5)


@pytest.mark.parametrize(
    ("before", "after", "cut"),
    [(60.0, 0.3, True), (3600.0, 0.3, True), (60.0, 30.0, False), (0.6, 60.0, False)],
    ids=["sooner", "much sooner", "still long", "later"],
)
@pytest.mark.parametrize("kind", ["chunks", "length"])
def test_a_stream_under_way_has_a_new_stream_idle_s_from_its_next_piece_on(
    before: float, after: float, cut: bool, kind: str
) -> None:
    go_on, silence = threading.Event(), threading.Event()

    def answer(wire: Wire) -> None:
        if kind == "chunks":
            wire.send(sse("one"))
        else:
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\none")
        go_on.wait(5)
        for _ in range(3):
            wire.send(chunk(b"data: two\n\n") if kind == "chunks" else b"two")
            silence.wait(0.05)
        silence.wait(4 if cut else 1)
        wire.send(b"0\r\n\r\n" if kind == "chunks" else b"x" * 87)

    with RogueEngine(answer) as engine:
        with (
            gateway(engine, timeouts=TimeoutSettings(stream_idle_s=before)) as g,
            Caller(g.port) as caller,
        ):
            caller.chat(stream=kind == "chunks")
            g.until(lambda r: r.gateway.in_flight == 1)
            assert caller.sock.recv(1, socket.MSG_PEEK)  # the first piece
            g.settings_to_load = replace(
                g.ask(lambda r: r.gateway.settings), timeouts=TimeoutSettings(stream_idle_s=after)
            )
            g.ask(lambda r: r.reload())
            go_on.set()
            reply = caller.reply()
            silence.set()
            assert reply.complete is not cut
            if kind == "chunks":
                assert (b"was silent for 0.3 s" in reply.body) is cut


# drain_s


def test_a_stop_takes_no_time_where_nothing_runs() -> None:
    took = []
    for _ in range(5):  # a busy machine may hold up some
        with RogueEngine(ok("done")) as engine, gateway(engine) as g, Caller(g.port) as idle:
            assert idle.chat().reply().body == b"done"
            began = time.monotonic()
            g.stop(at_once=False)
            took.append(time.monotonic() - began)
            assert idle.closed()
        if took[-1] < 0.09:
            break
    assert min(took) < 0.09  # uvicorn's own takes 0.1 to 0.2 s


def test_a_stop_waits_for_running_streams_no_longer_than_drain_s() -> None:
    with RogueEngine(raw(sse("one"), then="silent")) as engine:
        with running_gateway(engine.url, config={"timeouts": {"drain_s": 1}}) as g, Caller(g.port) as caller:
            caller.chat(stream=True)
            assert caller.head().status == 200
            began = time.monotonic()
            g.stop()
            assert 0.8 < time.monotonic() - began < 6
            assert b"0\r\n\r\n" not in caller.rest()


def test_a_stream_that_ends_within_drain_s_ends_whole() -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse("one"))
        wire.engine.go.wait(20)
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with RogueEngine(answer) as engine, running_gateway(engine.url) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        assert caller.head().status == 200
        assert caller.chunk() == b"data: one\n\n"
        stopping = threading.Thread(target=g.stop)
        stopping.start()
        g.wait_notified("STOPPING=1")
        engine.go.set()
        assert [caller.chunk(), caller.chunk()] == [b"data: [DONE]\n\n", b""]
        stopping.join(20)


# header_bytes, headers, body_bytes, connections


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"x" * 5000,
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 5000,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 1000,
    ],
    ids=["target", "value", "lines"],
)
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "without end"])
def test_a_head_over_header_bytes_is_431_before_it_ends(flood: bytes, ended: bool) -> None:
    limits = LimitSettings(header_bytes=2048)
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        end = b" HTTP/1.1\r\nhost: localhost\r\n\r\n" if flood.startswith(b"GET /x") else b"\r\n\r\n"
        reply = caller.send(flood + (end if ended else b"")).reply()
        assert (reply.status, reply.error["type"]) == (431, "invalid_request_error")
        assert caller.closed()


def test_a_head_of_just_the_limit_is_served() -> None:
    limits = LimitSettings(header_bytes=2048, headers=10)
    request = post(CHAT, chat(), *(f"x-{number}: {'y' * 200}" for number in range(8)))
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        assert caller.send(request).reply().status == 200
        assert caller.send(request.replace(b"x-0", b"x-9: z\r\nx-0")).reply().status == 431


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
def test_a_body_of_just_the_limit_is_served_and_a_byte_more_is_413(known: bool) -> None:
    limits = LimitSettings(body_bytes=len(chat(text="x" * 100)))
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        if known:
            assert caller.chat().reply().status == 200
        assert caller.chat(text="x" * 100).reply().status == 200
        assert caller.chat(text="x" * 101).reply().status == 413
        assert caller.closed()
        assert len(engine.requests) == 1 + known


def test_one_connection_more_than_allowed_is_503_and_room_again_when_one_leaves() -> None:
    limits = LimitSettings(connections=2)
    with RogueEngine(ok("done")) as engine, gateway(engine, limits=limits) as g:
        with Caller(g.port) as first, Caller(g.port) as second:
            assert [c.chat().reply().status for c in (first, second)] == [200, 200]
            with Caller(g.port) as third:
                reply = third.reply()
                assert (reply.status, reply.error["code"]) == (503, "too_many_connections")
                assert "retry-after" in reply.headers
                assert third.closed()
            assert first.chat().reply().body == b"done"
        g.until(lambda r: r.gateway.connections == 0)
        with Caller(g.port) as fourth:
            assert fourth.chat().reply().status == 200


# queue_requests, queue_bytes, queue_s


def test_a_queue_of_just_its_length_is_kept_and_the_next_is_429() -> None:
    with RogueEngine(hang) as engine:
        limits = LimitSettings(queue_requests=2)
        with gateway(one_slot(engine), limits=limits) as g:
            callers = [Caller(g.port) for _ in range(4)]
            callers[0].chat()
            engine.arrived.get(timeout=5)
            for number in (1, 2):
                callers[number].chat()
                g.until(lambda r, number=number: r.gateway.scheduler.queued == number)  # type: ignore[misc]
            reply = callers[3].chat().reply()
            assert (reply.status, reply.error["code"]) == (429, "queue_full")
            for caller in callers:
                caller.sock.close()


def test_requests_waiting_take_no_more_than_queue_bytes() -> None:
    with RogueEngine(hang) as engine:
        limits = LimitSettings(queue_bytes=1000)
        with gateway(one_slot(engine), limits=limits) as g:
            with Caller(g.port) as first, Caller(g.port) as second, Caller(g.port) as third:
                first.chat()
                engine.arrived.get(timeout=5)
                second.chat(text="x" * 600)
                g.until(lambda r: r.gateway.scheduler.queued == 1)
                reply = third.chat(text="x" * 600).reply()
                assert (reply.status, reply.error["code"]) == (429, "queue_full")
                assert int(reply.headers["retry-after"]) >= 1
                third.chat(text="x" * 100)  # there is room for this one
                g.until(lambda r: r.gateway.scheduler.queued == 2)


def test_a_place_in_the_queue_is_given_up_after_queue_s_and_never_reaches_an_engine() -> None:
    timeouts = TimeoutSettings(queue_s=0.2, **LONG)
    with RogueEngine(hang) as engine, gateway(one_slot(engine), timeouts=timeouts) as g:
        with Caller(g.port) as first, Caller(g.port) as second:
            first.chat()
            engine.arrived.get(timeout=5)
            reply = second.chat().reply()
            assert (reply.status, reply.error["code"]) == (429, "deadline_exceeded")
            assert g.ask(lambda r: r.gateway.scheduler.queued) == 0
            assert len(engine.requests) == 1


# max_n, max_completion_tokens


@pytest.mark.parametrize(("field", "limit"), [("n", "max_n"), ("max_tokens", "max_completion_tokens")])
def test_a_request_that_asks_for_more_than_allowed_is_400_and_names_the_limit(field: str, limit: str) -> None:
    limits = LimitSettings(**{limit: 4})
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        reply = caller.chat(**{field: 5}).reply()
        assert (reply.status, reply.error["param"]) == (400, field)
        assert reply.error["message"] == f"'{field}' is 5, more than 4 (limits.{limit})"
        assert engine.requests == []
        assert caller.chat(**{field: 4}).reply().status == 200
        assert caller.chat().reply().status == 200


def test_the_limits_on_what_is_generated_are_off_by_default() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat(n=10_000, max_tokens=10**9).reply().status == 200
