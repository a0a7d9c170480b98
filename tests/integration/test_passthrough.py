"""What callers send reaches the engine byte for byte, and what it answers reaches them so."""

from __future__ import annotations

import gzip
import json
import queue
from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, running_gateway
from tests.support.rogue import RogueEngine, chunk, ok, raw, sse
from tests.support.wire import CHAT, chat

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

TOOLS = {
    "model": "m",
    "messages": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": 'rain, "heavy"'},
    ],
    "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "w"}},
    "parallel_tool_calls": False,
}


def with_fields(fields: bytes) -> bytes:
    return b'{"model":"m","messages":[],' + fields + b"}"


def with_content(content: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":' + content + b'}],"model":"m"}'


BODIES = {
    "odd whitespace": b' {\t"model" :\r\n "m"  , "messages":[ ] ,"stream" : false }\n ',
    "order of fields": b'{"z":1,"messages":[],"a":2,"model":"m","b":3}',
    "unicode escapes": with_content(rb'"\u00e9\ud83d\ude00 \u0041\/"'),
    "raw unicode": with_content('"é😀\u2028"'.encode()),
    "lone surrogate": with_content(rb'"\ud800"'),
    "big numbers": with_fields(b'"seed":123456789012345678901234567890,"x":1e400,"y":-0,"z":0.10'),
    "zero and null": with_fields(b'"temperature":0,"top_p":0.0,"stop":null,"user":""'),
    "duplicate unknown fields": with_fields(b'"x":1,"x":2,"x":{"x":1,"x":1}'),
    "escaped field name": with_fields(rb'"\u0078-field":[]'),
    "tools": json.dumps(TOOLS, indent=3).encode(),
    "response format": with_fields(
        b'"response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{}}}'
    ),
    "logprobs": with_fields(b'"logprobs":true,"top_logprobs":5,"n":2,"logit_bias":{"50256":-100}'),
    "vision": with_content(
        b'[{"type":"text","text":"what?"},{"type":"image_url","image_url":'
        b'{"url":"data:image/png;base64,' + PIXEL.encode() + b'","detail":"low"}}]'
    ),
    "engine's own fields": with_fields(
        b'"min_p":0.1,"guided_regex":"a+","chat_template_kwargs":{"enable_thinking":false},"max_tokens":1'
    ),
    "a megabyte": with_content(b'"' + b"ab " * 350_000 + b'"'),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok()) as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(engine: RogueEngine) -> Iterator[Gateway]:
    with running_gateway(engine.url) as gateway:
        yield gateway


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_request_body_reaches_the_engine_unchanged(
    engine: RogueEngine, gateway: Gateway, body: bytes
) -> None:
    engine.answers = [ok()]
    with gateway.client() as client:
        answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert engine.requests[-1].partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_body_of_any_route_reaches_the_engine_unchanged(
    engine: RogueEngine, gateway: Gateway, path: str
) -> None:
    body = b'{ "model":"m","prompt":[1, 2],"input" : "a\\u0062",  "messages":[],"unknown":{"x":1e400} }'
    engine.answers = [ok()]
    with gateway.client() as client:
        answer = client.post(path, content=body)
    assert answer.status_code == 200, answer.text
    head, _, received = engine.requests[-1].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1".encode())
    assert received == body


def test_body_without_a_model_gets_one_and_keeps_every_other_value(
    engine: RogueEngine, gateway: Gateway
) -> None:
    engine.answers = [ok()]
    with gateway.client() as client:
        client.post(CHAT, content=b'{"messages": [ ], "seed":123456789012345678901234567890, "x":1.50}')
    received = engine.requests[-1].partition(b"\r\n\r\n")[2]
    assert json.loads(received)["model"] == "m"
    assert b'"messages":[ ]' in received.replace(b": ", b":")
    assert b"123456789012345678901234567890" in received
    assert b"1.50" in received


def test_query_string_and_headers_of_the_caller_reach_the_engine(
    engine: RogueEngine, gateway: Gateway
) -> None:
    engine.answers = [ok()]
    with gateway.client(headers={"x-custom": "a b", "openai-organization": "org"}) as client:
        client.post(CHAT + "?a=%20b&c", content=chat())
    head = engine.requests[-1].partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post /v1/chat/completions?a=%20b&c http/1.1")
    assert b"\r\nx-custom: a b\r\n" in head
    assert b"\r\nopenai-organization: org\r\n" in head


ANSWERS = {
    "odd whitespace": b'\n{ "choices" :\t[ ]\r\n}  ',
    "unicode escapes": rb'{"choices":[{"message":{"content":"\u00e9\ud83d\ude00\/ \ud800"}}]}',
    "big numbers": b'{"seed":123456789012345678901234567890,"logprob":-1e-400,"y":-0.0,"z":0.10}',
    "duplicate fields": b'{"a":1,"a":2}',
    "not JSON": b"<html>\xff\x00</html>",
    "empty": b"",
    "a megabyte": b'{"x":"' + b"0123456789" * 100_000 + b'"}',
}


@pytest.mark.parametrize("body", ANSWERS.values(), ids=ANSWERS.keys())
def test_answer_reaches_the_caller_unchanged(engine: RogueEngine, gateway: Gateway, body: bytes) -> None:
    engine.answers = [ok(body, "x-engine: own", "openai-processing-ms: 3")]
    with gateway.client() as client:
        answer = client.post(CHAT, content=chat())
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["x-engine"] == "own"
    assert answer.headers["openai-processing-ms"] == "3"


ERRORS = {
    "vLLM bad request": (400, b'{"error":{"message":"x","type":"BadRequestError","param":null,"code":400}}'),
    "a string": (401, b'{"error":"Unauthorized"}'),
    "detail": (404, b'{"detail":"Not Found"}'),
    "too large": (413, b'{ "error" : { "message":"batch" } }'),
    "schema": (422, b'{"detail":[{"loc":["body","input"],"msg":"x"}]}'),
    "not JSON": (418, b"teapot \xff"),
    "engine's own failure": (500, b'{"error":{"message":"boom","type":"InternalServerError"}}'),
}


@pytest.mark.parametrize(("status", "body"), ERRORS.values(), ids=ERRORS.keys())
def test_error_reaches_the_caller_unchanged(
    engine: RogueEngine, gateway: Gateway, status: int, body: bytes
) -> None:
    engine.answers = [ok(body, status=f"{status} Whatever")]
    before = len(engine.requests)
    with gateway.client() as client:
        answer = client.post(CHAT, content=chat())
    assert (answer.status_code, answer.content) == (status, body)
    assert len(engine.requests) == before + 1


def test_compressed_answer_stays_compressed(engine: RogueEngine, gateway: Gateway) -> None:
    body = gzip.compress(b'{"choices":[]}')
    engine.answers = [ok(body, "content-encoding: gzip")]
    with gateway.client() as client, client.stream("POST", CHAT, content=chat()) as answer:
        assert b"".join(answer.iter_raw()) == body
        assert answer.headers["content-encoding"] == "gzip"


def test_stream_reaches_the_caller_unchanged_however_it_is_cut(engine: RogueEngine, gateway: Gateway) -> None:
    text = 'data: {"x":"é\\u00e9"}\n\n: comment\n\nevent: ping\r\ndata:no space\n\ndata: [DONE]\n\n'.encode()
    pieces = b"".join(chunk(text[i : i + 1]) for i in range(len(text)))
    engine.answers = [raw(sse() + pieces + b"0\r\n\r\n")]
    with gateway.client() as client, client.stream("POST", CHAT, content=chat(stream=True)) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert b"".join(answer.iter_raw()) == text


def test_event_is_passed_on_before_the_engine_sends_the_next(engine: RogueEngine, gateway: Gateway) -> None:
    engine.answers = [lambda wire: wire.send(sse('{"n":1}'))]
    engine.arrived = queue.Queue()  # without those of the tests before this one
    with gateway.client() as client, client.stream("POST", CHAT, content=chat(stream=True)) as answer:
        wire = engine.arrived.get(timeout=10)
        pieces = answer.iter_raw()
        assert next(pieces) == b'data: {"n":1}\n\n'
        wire.send(chunk(b'data: {"n":2}\n\n'))
        assert next(pieces) == b'data: {"n":2}\n\n'
        wire.send(b"0\r\n\r\n")
        assert b"".join(pieces) == b""
