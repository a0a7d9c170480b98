"""Streams carry ``x-accel-buffering: no``, once, so that a proxy passes their events on as they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.config.settings import SchedulingSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.nginx import AS_INSTALLED, NGINX, nginx
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

NAME = b"x-accel-buffering"
EVENTS = "content-type: text/event-stream"
LAST = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def in_chunks(*lines: str, status: str = "200 OK") -> bytes:
    return head(*lines, "transfer-encoding: chunked", status=status) + chunk(b"data: 1\n\n") + LAST


def with_length(*lines: str, status: str = "200 OK") -> bytes:
    return head(*lines, "content-length: 9", status=status) + b"data: 1\n\n"


STREAMS = {
    "events": in_chunks(EVENTS),
    "with a charset, in capitals": in_chunks("Content-Type: Text/Event-Stream; charset=UTF-8"),
    "engine says no": in_chunks(EVENTS, "x-accel-buffering: no"),
    "engine says yes": in_chunks("X-Accel-Buffering: yes", EVENTS),
    "engine says it twice": in_chunks("x-accel-buffering: no", EVENTS, "x-accel-buffering: yes"),
    "of known length": with_length(EVENTS),
    "an error's": in_chunks(EVENTS, status="400 Bad Request"),
    "a server error's": with_length(EVENTS, status="500 Internal Server Error"),
    "compressed": in_chunks(EVENTS, "content-encoding: gzip"),
    "of JSON lines": in_chunks("content-type: application/x-ndjson"),
    "ended by its connection": head(EVENTS, "connection: close") + b"data: 1\n\n",
}


PATHS = [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"]


@pytest.fixture(scope="module")
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok(), routes=PATHS) as engine:
        yield engine


@pytest.fixture(scope="module")
def before(engine: RogueEngine) -> Iterator[InProcess]:
    with gateway(engine, scheduling=SchedulingSettings(retries=0)) as before:
        yield before


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_not_to_be_buffered(engine: RogueEngine, before: InProcess, stream: str) -> None:
    closes = b"connection: close" in STREAMS[stream]
    engine.answers = [raw(STREAMS[stream], then="close" if closes else "keep")]
    body = chat(prompt="a", input="a", stream=True)
    for path in PATHS * 2:  # the second head is a known one
        with Caller(before.port) as caller:
            caller.send(post(path, body, "connection: close"))
            found = caller.rest().partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        assert [line for line in found if line.startswith(NAME)] == [NAME + b": no"]


def test_what_is_no_stream_says_what_its_engine_says() -> None:
    said = ok("{}", "x-accel-buffering: yes")
    with RogueEngine(ok(), said) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert "x-accel-buffering" not in caller.chat().reply().headers
        assert caller.chat().reply().headers["x-accel-buffering"] == "yes"


@pytest.mark.skipif(NGINX is None, reason="there is no nginx")
@pytest.mark.parametrize("way", [AS_INSTALLED, AS_INSTALLED + "proxy_http_version 1.1;"], ids=["1.0", "1.1"])
@pytest.mark.parametrize("lines", [[], ["x-accel-buffering: yes"]], ids=["silent engine", "engine says yes"])
def test_nginx_as_installed_passes_an_event_on_before_the_last_was_sent(
    tmp_path: Path, way: str, lines: list[str]
) -> None:
    def answer(wire: Wire) -> None:
        wire.send(head(EVENTS, "transfer-encoding: chunked", *lines) + chunk(b'data: {"first": 1}\n\n'))
        assert wire.engine.go.wait(20)
        wire.send(LAST)

    with RogueEngine(answer) as engine, gateway(engine) as g, nginx(tmp_path, g.port, way) as port:
        with Caller(port) as caller:
            assert caller.chat(stream=True).head().status == 200
            assert b'{"first": 1}' in caller.line() + caller.line()
            engine.go.set()
            while b"[DONE]" not in caller.line():
                pass


def test_a_stream_that_breaks_off_carries_it() -> None:
    with RogueEngine(raw(sse("{}"), then="reset")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        answer = caller.chat(stream=True).rest()
        assert answer.count(NAME) == 1
        assert b'data: {"error"' in answer
