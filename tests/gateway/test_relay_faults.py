"""Engines that misbehave: what the caller gets, what is tried elsewhere, and that nothing stays behind."""

from __future__ import annotations

import json
import time

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, LimitSettings, TimeoutSettings
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post


def nothing_left(g: InProcess) -> None:
    g.until(lambda r: r.gateway.in_flight == 0 and r.gateway.scheduler.queued == 0)


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


SAFE_FAILURES = {
    "close after the head": raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", then="close"),
    "reset": raw(b"", then="reset"),
    "close": raw(b"", then="close"),
    "garbage": raw(b"SSH-2.0-OpenSSH\r\n\r\n", then="close"),
    "503": ok("{}", status="503 Service Unavailable"),
    "502": ok("{}", status="502 Bad Gateway"),
    "429": ok("{}", "Retry-After: 3", status="429 Too Many Requests"),
    "vllm draining": ok(
        '{"error":{"message":"cannot schedule new futures after shutdown"}}',
        status="500 Internal Server Error",
    ),
}


@pytest.mark.parametrize("failure", SAFE_FAILURES.values(), ids=SAFE_FAILURES.keys())
def test_a_safe_failure_is_retried_on_another_instance(
    failure: object, request: pytest.FixtureRequest
) -> None:
    with RogueEngine(failure) as bad, RogueEngine(ok("good")) as good:  # type: ignore[arg-type]
        engine = "vllm" if "draining" in request.node.name else "openai"
        instances = [
            InstanceSettings(url=e.url, name=n, kind="llm", engine=engine)
            for e, n in ((bad, "bad"), (good, "good"))
        ]
        with gateway(*instances) as g, Caller(g.port) as caller:
            replies = [caller.chat().reply() for _ in range(4)]
            assert [(r.status, r.body) for r in replies] == [(200, b"good")] * 4
            assert bad.requests
            nothing_left(g)


def test_a_refused_connection_is_retried_and_ejects_the_instance() -> None:
    with (
        RogueEngine(ok("bad")) as bad,
        RogueEngine(ok("good")) as good,
        gateway(bad, good) as g,
        Caller(g.port) as c,
    ):
        bad.refuse()
        assert [c.chat().reply().body for _ in range(4)] == [b"good"] * 4
        assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.EJECTED
        nothing_left(g)


@pytest.mark.parametrize(
    "status", ["500 Internal Server Error", "400 Bad Request", "404 Not Found", "422 Nope"]
)
def test_an_engines_own_verdict_is_passed_on_and_not_retried(status: str) -> None:
    bad = ok('{"error":"own words"}', status=status)
    with RogueEngine(bad) as a, RogueEngine(bad) as b, gateway(a, b) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (str(reply.status), reply.body) == (status[:3], b'{"error":"own words"}')
        assert len(a.requests) + len(b.requests) == 1


def test_when_all_are_overloaded_the_last_answer_is_passed_on_with_its_retry_after() -> None:
    busy = ok('{"error":"busy"}', "Retry-After: 7", status="429 Too Many Requests")
    with RogueEngine(busy) as a, RogueEngine(busy) as b, gateway(a, b) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.headers["retry-after"], reply.body) == (429, "7", b'{"error":"busy"}')
        assert len(a.requests) == len(b.requests) == 1
        nothing_left(g)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (raw(b"", then="reset"), "reset the connection"),
        (raw(b"", then="close"), "closed the connection"),
        (raw(b"HTTP/1.1 OK\r\n\r\n", then="close"), "sent no valid HTTP"),
        (
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
            "sent no valid HTTP",
        ),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"), "sent no valid HTTP"),
        (
            raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            "no valid HTTP",
        ),
        (raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "no valid HTTP"),
        (
            raw(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
            "no valid HTTP",
        ),
        (raw(b"HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 0\r\n\r\n"), "no valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nx-big: " + b"y" * 70000 + b"\r\n\r\n"), "65536 bytes of headers"),
    ],
    ids=[
        "reset",
        "close",
        "status line",
        "two lengths",
        "sign",
        "both framings",
        "coding",
        "upgrade",
        "space",
        "huge",
    ],
)
def test_an_only_engine_that_answers_no_http_is_502(answer: object, detail: str) -> None:
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:  # type: ignore[arg-type]
        reply = caller.chat().reply()
        assert (reply.status, reply.error["type"]) == (502, "upstream_error")
        assert detail in reply.error["message"]
        nothing_left(g)


def test_two_bad_answers_from_the_only_engine_then_a_good_one_succeeds() -> None:
    answers = (raw(b"", then="reset"), raw(b"", then="reset"), ok("good"))
    with RogueEngine(*answers) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert [caller.chat().reply().status for _ in range(3)] == [502, 502, 200]


def test_an_only_engine_that_comes_back_is_found_by_the_next_request() -> None:
    health = HealthSettings(interval_s=30)
    with RogueEngine(ok("good")) as engine, gateway(engine, health=health) as g, Caller(g.port) as caller:
        engine.refuse()
        first = caller.chat().reply()
        second = caller.chat().reply()
        assert (first.status, second.status) == (502, 503)
        assert "retry-after" in second.headers
        assert second.error["code"] == "no_healthy_instance"
        engine.listen_again()
        assert caller.chat().reply().body == b"good"
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.READY)


def test_a_stale_keep_alive_connection_is_replaced_by_a_fresh_one() -> None:
    def good_then_leave(wire: Wire) -> None:
        ok("good")(wire)

    def left_as_we_came(wire: Wire) -> None:
        wire.close()

    answers = (good_then_leave, left_as_we_came, ok("fresh"))
    with RogueEngine(*answers) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().reply().body == b"good"
        assert caller.chat().reply().body == b"fresh"
        assert engine.connections == 2


def test_an_engine_that_dies_mid_stream_leaves_an_error_event_and_no_clean_end() -> None:
    with RogueEngine(raw(sse("one"), then="reset")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat(stream=True).reply()
        assert not reply.complete
        assert reply.chunks[0] == b"data: one\n\n"
        error = json.loads(reply.chunks[1].removeprefix(b"data: "))["error"]
        assert error["type"] == "upstream_error"
        assert b"[DONE]" not in reply.body
        assert len(engine.requests) == 1  # once a byte was delivered it is never sent again
        nothing_left(g)


def test_a_plain_body_that_breaks_off_is_cut_not_completed() -> None:
    cut = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", then="close")
    with RogueEngine(cut) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.complete, reply.body) == (200, False, b"half")
        nothing_left(g)


@pytest.mark.parametrize(
    "bad", [b"zz\r\nhello\r\n", b"-5\r\nhello\r\n", b"5hello\r\n"], ids=["hex", "sign", "no line"]
)
def test_bad_chunk_sizes_cut_the_answer(bad: bytes) -> None:
    with RogueEngine(raw(sse("one") + bad)) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat(stream=True).reply()
        assert not reply.complete or reply.status == 502
        nothing_left(g)


def test_surplus_bytes_are_not_delivered_and_their_connection_is_not_used_again() -> None:
    first = raw(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
    )
    with RogueEngine(first, ok("good")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().reply().body == b"ok"
        assert caller.chat().reply().body == b"good"
        assert engine.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n",
    ],
    ids=["1.0", "close"],
)
def test_a_connection_the_engine_will_close_is_not_used_again(head: bytes) -> None:
    with RogueEngine(raw(head + b"ok"), ok("good")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert [caller.chat().reply().body for _ in range(2)] == [b"ok", b"good"]
        assert engine.connections == 2


def test_a_body_without_length_ends_with_the_connection() -> None:
    answer = raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it", then="close")
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.complete, reply.body) == (True, b"all of it")


def test_interim_answers_are_passed_over() -> None:
    answer = raw(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.body, "link" in reply.headers) == (200, b"ok", False)


def test_an_engine_silent_before_its_answer_is_504_and_told() -> None:
    timeouts = TimeoutSettings(first_byte_s=0.2)
    with RogueEngine(hang) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.error["type"]) == (504, "upstream_timeout")
        engine.left.get(timeout=5)
        nothing_left(g)


def test_an_engine_silent_within_a_stream_is_cut_and_told() -> None:
    timeouts = TimeoutSettings(stream_idle_s=0.2)
    with RogueEngine(raw(sse("one"), then="silent")) as engine:
        with gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
            reply = caller.chat(stream=True).reply()
            assert not reply.complete
            assert b"was silent for 0.2 s" in reply.body
            engine.left.get(timeout=5)
            nothing_left(g)


def test_a_slow_drip_within_the_idle_time_is_delivered_whole() -> None:
    def drip(wire: Wire) -> None:
        wire.send(sse("0"))
        for number in range(1, 5):
            time.sleep(0.1)  # the drip itself
            wire.send(chunk(f"data: {number}\n\n".encode()))
        wire.send(b"0\r\n\r\n")

    timeouts = TimeoutSettings(stream_idle_s=0.3)
    with RogueEngine(drip) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        assert len(caller.chat(stream=True).reply().chunks) == 5


@pytest.mark.parametrize("answer", [hang, raw(sse("one"), then="silent")], ids=["waiting", "streaming"])
def test_a_caller_that_leaves_is_told_to_the_engine_at_once(answer: object) -> None:
    took: list[float] = []
    with RogueEngine(answer) as engine, gateway(engine) as g:  # type: ignore[arg-type]
        while not took or (took[-1] >= 0.1 and len(took) < 5):  # a busy machine may hold up one or the other
            with Caller(g.port) as caller:
                caller.chat()
                engine.arrived.get(timeout=5)
            left = time.monotonic()
            engine.left.get(timeout=5)
            took.append(time.monotonic() - left)
            nothing_left(g)
        assert min(took) < 0.1
        assert g.ask(lambda r: r.gateway.stats.cancelled) == len(took)


def test_a_caller_that_leaves_the_queue_frees_its_place_and_never_reaches_an_engine() -> None:
    with RogueEngine(hang) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with gateway(instance) as g, Caller(g.port) as first:
            first.chat()
            engine.arrived.get(timeout=5)
            with Caller(g.port) as second:
                second.chat()
                g.until(lambda r: r.gateway.scheduler.queued == 1)
            g.until(lambda r: r.gateway.scheduler.queued == 0)
            first.sock.close()
            nothing_left(g)
            assert len(engine.requests) == 1


def test_a_freed_slot_goes_to_the_request_that_waited_longest() -> None:
    def held(wire: Wire) -> None:
        wire.engine.go.wait(20)
        ok(wire.body)(wire)

    with RogueEngine(held, ok("second"), ok("third")) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with gateway(instance) as g, Caller(g.port) as a, Caller(g.port) as b, Caller(g.port) as c:
            a.chat()
            engine.arrived.get(timeout=5)
            b.chat()
            g.until(lambda r: r.gateway.scheduler.queued == 1)
            c.chat()
            g.until(lambda r: r.gateway.scheduler.queued == 2)
            engine.go.set()
            assert a.reply().status == 200
            waited = b.reply()
            assert waited.body == b"second"
            assert int(waited.headers["x-sage-queue-ms"]) >= 0
            assert c.reply().body == b"third"


def test_a_full_queue_refuses_with_429_and_retry_after() -> None:
    with RogueEngine(hang) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with (
            gateway(instance, limits=LimitSettings(queue_requests=0)) as g,
            Caller(g.port) as a,
            Caller(g.port) as b,
        ):
            a.chat()
            engine.arrived.get(timeout=5)
            reply = b.chat().reply()
            assert (reply.status, reply.error["code"]) == (429, "queue_full")
            assert int(reply.headers["retry-after"]) >= 1


def test_waiting_too_long_for_a_slot_is_429() -> None:
    with RogueEngine(hang) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with (
            gateway(instance, timeouts=TimeoutSettings(queue_s=0.2)) as g,
            Caller(g.port) as a,
            Caller(g.port) as b,
        ):
            a.chat()
            engine.arrived.get(timeout=5)
            reply = b.chat().reply()
            assert (reply.status, reply.error["code"]) == (429, "deadline_exceeded")
            assert "retry-after" in reply.headers


def test_a_caller_that_does_not_read_pauses_the_engine() -> None:
    sent = []

    def flood(wire: Wire) -> None:
        wire.send(sse())
        wire.sock.settimeout(1.0)
        try:
            for _ in range(4000):
                wire.send(chunk(b"x" * 65536))
                sent.append(65536)
        except TimeoutError:
            wire.engine.left.put(wire)

    with RogueEngine(flood) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        engine.left.get(timeout=20)
        assert sum(sent) < 40_000_000


def test_an_early_answer_ends_the_exchange() -> None:
    body = chat(text="x" * 3_000_000)
    early = raw(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
    with RogueEngine(early) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post(CHAT, body)).reply()
        assert (reply.status, reply.body) == (413, b"big")
        nothing_left(g)


def test_five_hundred_callers_that_leave_stay_behind_nowhere() -> None:
    with RogueEngine(hang) as engine, gateway(engine) as g:
        callers = [Caller(g.port).chat(stream=True) for _ in range(500)]
        for _ in callers:
            engine.arrived.get(timeout=20)
        for caller in callers:
            caller.sock.close()
        for _ in callers:
            engine.left.get(timeout=20)
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.connections) == 0
