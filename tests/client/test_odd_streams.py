"""Event streams that differ from OpenAI's own and are legal, or usual enough."""

from __future__ import annotations

import json
from typing import Any

import pytest

import sage_inference as si
from sage_inference.client.answers import Answer
from sage_inference.client.sse import EventReader
from sage_inference.client.stream_text import StreamText
from tests.client.faces import Clients
from tests.support.cpu import cpu_time
from tests.support.rogue import RogueEngine, ok, raw

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
BOM = b"\xef\xbb\xbf"
DONE = b"data: [DONE]\n\n"


def said(content: Any, **more: Any) -> bytes:
    document = {"model": "m", "choices": [{"index": 0, "delta": {"content": content}, **more}]}
    return json.dumps(document).encode()


def event(content: Any, **more: Any) -> bytes:
    return b"data: " + said(content, **more) + b"\n\n"


AB = event("a") + event("b")
PARTS = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "no"}, {"type": "text", "text": "b"}]
STREAMS = {
    "plain": AB + DONE,
    "BOM": BOM + AB + DONE,
    "BOM before each event": BOM + event("a") + BOM + event("b") + BOM + DONE,
    "BOM before a comment": BOM + b": hi\n\n" + AB + DONE,
    "CR": (AB + DONE).replace(b"\n", b"\r"),
    "CRLF": (AB + DONE).replace(b"\n", b"\r\n"),
    "mixed line ends": event("a").replace(b"\n", b"\r") + event("b").replace(b"\n", b"\r\n") + DONE,
    "one CR, one LF": b"data: " + said("ab") + b"\r\n\n" + b"data: [DONE]\n\r\n",
    "comments": b": ping\n\n" + event("a") + b": ping\r\n: ping\n\n" + event("b") + b":\n" + DONE,
    "event, id and retry lines": b"event: message\nid: 7\nretry: 10\n" + AB + b"event: done\n" + DONE,
    "no space": AB.replace(b"data: ", b"data:") + b"data:[DONE]\n\n",
    "[DONE] and a space": AB + b"data: [DONE] \n\n",
    "[DONE] after two spaces": AB + b"data:  [DONE]\n\n",
    "data alone": b"data:\n\n" + event("a") + b"data\n\n" + b"data: \n\n" + event("b") + DONE,
    "data of several lines": event("ab").replace(b'"choices"', b'\ndata: "choices"') + DONE,
    "parts": event(PARTS) + DONE,
    "parts as texts": event(["a", "b"]) + DONE,
    "one part": event({"type": "text", "text": "ab"}) + DONE,
    "null and empty contents": event(None) + event("a") + event([]) + event("") + event("b") + DONE,
    "no delta": b'data: {"choices": [{"index": 0, "delta": null}]}\n\n' + AB + DONE,
    "no choices": b'data: {"choices": []}\n\n' + AB + b'data: {"choices": null}\n\n' + b"data: {}\n\n" + DONE,
    "choices that are none": b'data: {"choices": {"0": 1}}\n\ndata: {"choices": [1, null]}\n\n' + AB + DONE,
    "index null": AB.replace(b'"index": 0', b'"index": null') + DONE,
    "other choices": AB + event("x").replace(b'"index": 0', b'"index": 1') + DONE,
    "no empty line after [DONE]": AB + b"data: [DONE]\n",
    "no line end after [DONE]": AB + b"data: [DONE]",
    "no line end after the last text": event("a") + b"data: " + said("b", finish_reason="stop"),
    "a reason and no [DONE]": event("a") + event("b", finish_reason="stop"),
    "a cut event after the reason": event("a") + event("b", finish_reason="stop") + b'data: {"usage": {"pro',
    "more after [DONE]": AB + DONE + event("x") + b"data: {\n\n",
    "null usage": AB.replace(b'"model"', b'"usage": null, "model"') + DONE,
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_text_is_read_in_every_form_wherever_it_is_cut(stream: bytes) -> None:
    for size in (1, 2, 3, 7, len(stream)):
        text = StreamText("chat", Answer(200, {}, b"", "r"))
        pieces = [p for at in range(0, len(stream), size) for p in text.feed(stream[at : at + size])]
        pieces += text.finish()
        assert all(isinstance(piece, str) for piece in pieces)
        assert "".join(pieces) == text.result.text == "ab", size


@pytest.mark.parametrize(
    "name",
    ["BOM", "CR", "[DONE] and a space", "data alone", "parts", "no line end after [DONE]", "no choices"],
)
def test_both_clients_read_them_from_a_server(clients: Clients, name: str) -> None:
    with RogueEngine(raw(HEAD + STREAMS[name], then="close")) as engine:
        stream = clients(engine.url).chat("hi", stream=True)
        assert "".join(stream) == stream.result.text == "ab"


def test_a_connection_that_breaks_after_the_end_is_no_error(clients: Clients) -> None:
    head = HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
    body = AB + DONE
    with RogueEngine(raw(head + b"%x\r\n%b\r\n" % (len(body), body), then="close")) as engine:
        assert "".join(clients(engine.url).chat("hi", stream=True)) == "ab"


ERRORS = {
    "OpenAI": (b'data: {"error": {"message": "no memory", "code": 500}}\n\n', "no memory"),
    "text": (b'data: {"error": "no memory"}\n\n', "no memory"),
    "Anthropic": (
        b'event: error\ndata: {"type": "error", "error": {"message": "no memory"}}\n\n',
        "no memory",
    ),
    "named": (b'event: error\ndata: {"message": "no memory"}\n\n', "no memory"),
    "vLLM's old one": (b'data: {"object": "error", "message": "no memory"}\n\n', "no memory"),
    "no empty line": (b'data: {"error": {"message": "no memory"}}', "no memory"),
    "no JSON": (b"data: oops\n\n", "oops"),
    "no object": (b"data: [1]\n\n", r"\[1\]"),
    "deep": (b"data: " + b"[" * 100_000 + b"\n\n", "no JSON object"),
    "cut": (b'data: {"choices": [{"del', "ended before its end"),
    "nothing more": (b"", "ended before its end"),
    "[DON": (b"data: [DON", "ended before its end"),
}


@pytest.mark.parametrize("how", ERRORS)
def test_an_error_in_the_middle_comes_after_the_text_before_it(clients: Clients, how: str) -> None:
    told, words = ERRORS[how]
    with RogueEngine(raw(HEAD + event("a") + told, then="close")) as engine:
        stream = clients(engine.url).chat("hi", stream=True)
        assert next(stream) == "a"
        with pytest.raises(si.EngineError, match=words):
            next(stream)
        assert stream.result.text == "a"


@pytest.mark.parametrize("body", [b"", b"\n\n", BOM, b": ping\n\n", b"event: x\n\n", b"data:\n\n"])
def test_a_stream_without_anything_is_an_error(clients: Clients, body: bytes) -> None:
    with RogueEngine(raw(HEAD + body, then="close")) as engine:
        with pytest.raises(si.EngineError, match="ended before its end"):
            list(clients(engine.url).chat("hi", stream=True))


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_characters_cut_between_pieces_are_whole_and_wrong_bytes_do_not_end_the_stream(size: int) -> None:
    umlauts = b'data: {"choices": [{"delta": {"content": "\xc3\xa4\xf0\x9f\x98\x80"}}]}\n\n'
    wrong = b'data: {"choices": [{"delta": {"content": "x\xff\xc3y"}}]}\n\n'
    stream = umlauts + wrong + DONE
    text = StreamText("chat", Answer(200, {}, b"", "r"))
    pieces = [p for at in range(0, len(stream), size) for p in text.feed(stream[at : at + size])]
    assert pieces == ["ä😀", "x\ufffd\ufffdy"]


def test_a_completions_text_may_be_parts_too(clients: Clients) -> None:
    answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": PARTS}}]})
    with RogueEngine(ok(answer)) as engine:
        assert clients(engine.url).chat("hi") == "ab"


def test_a_long_line_in_small_pieces_costs_its_length() -> None:
    reader, piece = EventReader(), b"x" * 1000
    with cpu_time() as spent:
        reader.feed(b"data: ")
        for _ in range(20_000):
            reader.feed(piece)
        [found] = reader.feed(b"\n\n")
    assert len(found.data) == 20_000_000
    assert spent.seconds < 1.0
