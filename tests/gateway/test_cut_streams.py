"""Answers that break off: in no protocol and over no framing does one look whole, and the reason is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from sage_inference.config.settings import TimeoutSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, raw
from tests.support.wire import CHAT, Caller, Reply

MESSAGES, RESPONSES, AUDIO = "/v1/messages", "/v1/responses", "/v1/audio/transcriptions"
REASON = "reset the connection before its answer ended"
EVENTS = "text/event-stream; charset=utf-8"


def head(kind: str, *headers: str, chunked: bool = True) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", *headers]
    return "\r\n".join(lines + ["transfer-encoding: chunked"] * chunked).encode() + b"\r\n\r\n"


def broken(kind: str, *pieces: bytes, headers: tuple[str, ...] = ()) -> Answer:
    """These pieces, and a reset."""
    return raw(head(kind, *headers) + b"".join(map(chunk, pieces)), then="reset")


class Scene:
    """One engine and one gateway before it."""

    def __init__(self, engine: RogueEngine, g: InProcess) -> None:
        self.engine = engine
        self.gateway = g

    def ask(self, answer: Answer, path: str, version: str = "1.1") -> Reply:
        """What a caller gets of an engine's answer."""
        self.engine.answers = [answer]
        with Caller(self.gateway.port) as caller:
            return caller.send(request(path, version)).reply()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with RogueEngine(hang, routes=list(DIALECTS)) as engine, gateway(engine) as g:
        yield Scene(engine, g)


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def request(path: str, version: str = "1.1") -> bytes:
    """Over HTTP/1.0, as nginx asks by default, the end of an answer without a length is that of its connection."""
    if path == AUDIO:
        body = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
        kind = "multipart/form-data; boundary=b"
    else:
        document: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "input": "hi",
        }
        document |= {"prompt": "hi", "max_tokens": 9, "stream": True}
        body, kind = json.dumps(document).encode(), "application/json"
    lines = [f"POST {path} HTTP/{version}", "host: 127.0.0.1", f"content-type: {kind}"]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def events(body: bytes) -> list[tuple[str | None, Any]]:
    return [(event.event, event.json()) for event in SSEDecoder().iter_bytes(iter([body]))]


def openai_error(event: tuple[str | None, Any]) -> str:
    assert event[0] is None
    assert event[1]["error"]["type"] == "upstream_error"
    return str(event[1]["error"]["message"])


def anthropic_error(event: tuple[str | None, Any]) -> str:
    assert event[0] == event[1]["type"] == "error"
    assert event[1]["error"]["type"] == "api_error"
    return str(event[1]["error"]["message"])


def responses_error(event: tuple[str | None, Any]) -> str:
    assert event[0] == event[1]["type"] == "error"
    assert (event[1]["code"], event[1]["param"]) == ("upstream_error", None)
    assert event[1]["error"]["message"] == event[1]["message"]
    return str(event[1]["message"])


DIALECTS: dict[str, Callable[[tuple[str | None, Any]], str]] = {
    CHAT: openai_error,
    "/v1/completions": openai_error,
    AUDIO: openai_error,
    MESSAGES: anthropic_error,
    RESPONSES: responses_error,
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("path", DIALECTS)
def test_a_cut_event_stream_ends_with_the_error_of_its_protocol(
    scene: Scene, path: str, version: str
) -> None:
    piece = b'event: x\ndata: {"type":"x"}\n\n'
    reply = scene.ask(broken(EVENTS, piece), path, version)
    assert reply.body.startswith(piece)
    assert b"[DONE]" not in reply.body
    assert reply.complete is (version == "1.0")
    *_, last = events(reply.body)
    assert REASON in DIALECTS[path](last)


HALVES = {
    "in a text": b'data: {"type":"x","delta":{"text":"Hal',
    "in an escape": b'data: {"type":"x","delta":{"text":"Hal\\u00',
    "behind a backslash": b'data: {"type":"x","delta":{"text":"Hal\\',
    "in a character": 'data: {"type":"x","delta":{"text":"Hal€'.encode()[:-1],
    "in a name": b'data: {"type":"x","del',
    "behind a colon": b'data: {"type":"x","n":',
    "in a number": b'data: {"type":"x","n":-1.',
    "in a word": b'data: {"type":"x","n":nul',
    "behind the field's name": b"data:",
    "in the field's name": b"dat",
    "in the event's name": b"event: content_bl",
    "behind the event's name": b"event: content_block_delta\n",
    "before the empty line": b'data: {"type":"x"}\n',
    "before the line's end": b'data: {"type":"x"}',
    "behind CR": b'data: {"type":"x"}\r',
    "behind CRLF": b'data: {"type":"x"}\r\n',
    "within the empty line": b'data: {"type":"x"}\r\n\r',
    "in a comment": b": pi",
    "in several data lines": b'data: {"type":"x",\ndata: "n":1',
    "between data lines": b'data: {"type":"x",\n',
}


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_an_event_cut_in_its_midst_hides_the_error_from_no_reader(
    scene: Scene, half: bytes, path: str
) -> None:
    """The first event that does not parse ends an SDK's reading: there must be none."""
    first = b'event: x\ndata: {"type":"x","sequence_number":6}\n\n'
    reply = scene.ask(broken(EVENTS, first, half), path)
    assert reply.body.startswith(first + half)
    found = events(reply.body)
    errors = [event for event in found if event[1].get("error")]
    assert found[0][1] == {"type": "x", "sequence_number": 6}
    assert REASON in DIALECTS[path](errors[-1])
    assert all(event in errors or event[1] == {"type": "x"} for event in found[1:])
    if path == RESPONSES:
        assert errors[-1][1]["sequence_number"] == 7


def test_an_event_that_began_before_what_is_remembered_is_ended_all_the_same(scene: Scene) -> None:
    reply = scene.ask(broken(EVENTS, b'data: {"text":"', *[b"x" * 200] * 40), CHAT)
    last = reply.body.rpartition(b"\n\ndata: ")[2]
    assert REASON in json.loads(last)["error"]["message"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("half", [b"{}\n", b'{"message":{"content":"Ha', b'{"done":false}'])
@pytest.mark.parametrize("kind", ["application/x-ndjson", "Application/JSONL; charset=utf-8"])
def test_a_cut_stream_of_json_lines_ends_with_an_error_line(
    scene: Scene, half: bytes, kind: str, version: str
) -> None:
    reply = scene.ask(broken(kind, b'{"done":false}\n', half), CHAT, version)
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert lines[0] == {"done": False}
    assert REASON in lines[-1]["error"]["message"]


OPAQUE: dict[str, tuple[str, tuple[str, ...]]] = {
    "sound": ("audio/mpeg", ()),
    "JSON": ("application/json", ()),
    "text": ("text/plain", ()),
    "compressed events": (EVENTS, ("content-encoding: gzip",)),
    "compressed lines": ("application/x-ndjson", ("content-encoding: br",)),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("kind", "headers"), OPAQUE.values(), ids=OPAQUE)
def test_nothing_is_added_to_a_cut_body_of_another_kind_and_its_end_is_no_regular_one(
    scene: Scene, kind: str, headers: tuple[str, ...], version: str
) -> None:
    scene.engine.answers = [broken(kind, b"\x00half", headers=headers)]
    with Caller(scene.gateway.port) as caller:
        caller.send(request(CHAT, version))
        got = b""
        try:
            while data := caller.sock.recv(65536):
                got += data
        except ConnectionResetError:
            assert version == "1.0"
        else:
            assert version == "1.1"
            assert not got.endswith(b"0\r\n\r\n")
        assert b"error" not in got


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_of_a_told_length_is_short_and_nothing_is_added(scene: Scene, version: str) -> None:
    start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n"
    reply = scene.ask(raw(start + b"data: {}\n\n", then="reset"), MESSAGES, version)
    assert (reply.complete, reply.body) == (False, b"data: {}\n\n")


PING = b"event: ping\ndata: {}\n\n"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_silent_stream_is_cut_in_its_protocol(version: str) -> None:
    answer = raw(head(EVENTS) + chunk(PING), then="silent")
    timeouts = TimeoutSettings(stream_idle_s=0.2)
    with RogueEngine(answer, routes=[MESSAGES]) as engine, gateway(engine, timeouts=timeouts) as g:
        *_, last = events(Scene(engine, g).ask(answer, MESSAGES, version).body)
        assert "was silent for 0.2 s" in anthropic_error(last)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_gateway_that_stops_under_a_stream_leaves_an_error(version: str) -> None:
    answer = raw(head(EVENTS) + chunk(PING), then="silent")
    with RogueEngine(answer, routes=[MESSAGES]) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(request(MESSAGES, version))
        assert caller.head().status == 200
        assert caller.take(5)
        g.stop()
        rest = caller.rest()
        assert b"event: error\n" in rest
        assert b"the gateway stopped before the answer ended" in rest
