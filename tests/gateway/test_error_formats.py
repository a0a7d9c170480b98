"""The gateway's own errors, in the shape of the route's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    ApiKeySettings,
    InstanceSettings,
    LimitSettings,
    TimeoutSettings,
)
from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, ok, raw
from tests.support.wire import CHAT, Caller, Reply, post

MESSAGES = "/v1/messages"
KEY = "authorization: Bearer sk-good"


def asked(model: str = "m", **fields: object) -> bytes:
    document = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.dumps(document).encode()


def shown(reply: Reply, status: int) -> Any:
    """The error, whose shape Anthropic's SDKs read."""
    assert reply.status == status
    document: Any = reply.json
    assert set(document) == {"type", "error", "request_id"}
    assert set(document["error"]) == {"type", "message"}
    assert document["type"] == "error"
    assert document["request_id"] == reply.headers["x-request-id"] == reply.headers["request-id"]
    return document["error"]["type"]


@pytest.fixture(scope="module")
def g() -> Iterator[InProcess]:
    settings: dict[str, Any] = {
        "api_keys": (ApiKeySettings(key=Secret("sk-good")),),
        "limits": LimitSettings(body_bytes=2000),
    }
    routes = [CHAT, MESSAGES, "/v1/messages/count_tokens"]
    with RogueEngine(ok('{"own":"words"}', status="418 Own"), routes=routes) as engine:
        with gateway(engine, **settings) as process:
            yield process


def test_the_engines_own_error_is_passed_on_as_it_is(g: InProcess) -> None:
    with Caller(g.port) as caller:
        assert caller.send(post(MESSAGES, asked(), KEY)).reply().body == b'{"own":"words"}'


@pytest.mark.parametrize(
    ("body", "headers", "status", "type_"),
    [
        (b"{", (KEY,), 400, "invalid_request_error"),
        (b"{}", (KEY,), 400, "invalid_request_error"),
        (asked(), (), 401, "authentication_error"),
        (asked(), ("x-api-key: sk-bad",), 401, "authentication_error"),
        (asked(), (KEY, "origin: http://evil.example"), 403, "permission_error"),
        (asked("other"), (KEY,), 404, "not_found_error"),
        (asked(padding="x" * 3000), (KEY,), 413, "request_too_large"),
        (asked(), (KEY, "x-sage-priority: none of them"), 400, "invalid_request_error"),
    ],
    ids=[
        "no JSON",
        "no messages",
        "no key",
        "wrong key",
        "foreign page",
        "unknown model",
        "too large",
        "header",
    ],
)
@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}?beta=true", f"{MESSAGES}/count_tokens"])
def test_a_refusal_is_in_anthropics_shape(
    g: InProcess, path: str, body: bytes, headers: tuple[str, ...], status: int, type_: str
) -> None:
    with Caller(g.port) as caller:
        assert shown(caller.send(post(path, body, *headers)).reply(), status) == type_


@pytest.mark.parametrize(
    ("line", "status", "type_"),
    [
        ("GET /v1/messages", 405, "invalid_request_error"),
        ("DELETE /v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST /v1/messages/batches", 404, "not_found_error"),
        ("GET /v1/messages/batches/msgbatch_1/results", 404, "not_found_error"),
        ("POST /v1/messages/", 404, "not_found_error"),
    ],
)
def test_what_the_application_refuses_is_in_anthropics_shape_too(
    g: InProcess, line: str, status: int, type_: str
) -> None:
    with Caller(g.port) as caller:
        caller.send(f"{line} HTTP/1.1\r\nhost: 127.0.0.1\r\n{KEY}\r\ncontent-length: 0\r\n\r\n".encode())
        assert shown(caller.reply(), status) == type_


def test_a_missing_key_on_an_unknown_path_under_messages_is_in_anthropics_shape(g: InProcess) -> None:
    with Caller(g.port) as caller:
        assert shown(caller.send(post(f"{MESSAGES}/batches", b"")).reply(), 401) == "authentication_error"


def test_a_body_that_grows_too_large_in_chunks_is_refused_in_anthropics_shape(g: InProcess) -> None:
    with Caller(g.port) as caller:
        head = f"POST {MESSAGES} HTTP/1.1\r\nhost: 127.0.0.1\r\n{KEY}\r\ntransfer-encoding: chunked\r\n\r\n"
        caller.send(head.encode()).send(b"bb8\r\n" + b"x" * 3000 + b"\r\n")
        reply = caller.reply()
        assert (reply.status, reply.json["error"]["type"]) == (413, "request_too_large")


def test_other_paths_keep_openais_shape(g: InProcess) -> None:
    with Caller(g.port) as caller:
        for path in (CHAT, "/v1/messagesx", "/v1/responses", "/nowhere"):
            error = caller.send(post(path, b"{", KEY)).reply().error
            assert set(error) == {"message", "type", "param", "code"}


def silent(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


@pytest.mark.parametrize(
    ("answer", "status", "type_"),
    [
        (raw(b"", then="reset"), 502, "api_error"),
        (raw(b"SSH-2.0\r\n\r\n", then="close"), 502, "api_error"),
        (silent, 504, "timeout_error"),
    ],
    ids=["reset", "garbage", "silent"],
)
def test_what_befalls_the_engine_is_told_in_anthropics_shape(answer: Any, status: int, type_: str) -> None:
    timeouts = TimeoutSettings(first_byte_s=0.2)
    with RogueEngine(answer, routes=[MESSAGES]) as engine, gateway(engine, timeouts=timeouts) as g:
        with Caller(g.port) as caller:
            assert shown(caller.send(post(MESSAGES, asked())).reply(), status) == type_


def test_a_full_queue_and_a_route_that_nobody_has_are_told_in_anthropics_shape() -> None:
    with RogueEngine(silent, routes=[MESSAGES]) as engine, RogueEngine(silent) as chats:
        instances = [
            InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1),
            InstanceSettings(url=chats.url, name="c", kind="llm", engine="openai"),
        ]
        limits = LimitSettings(queue_requests=0)
        with gateway(*instances, limits=limits) as g, Caller(g.port) as a, Caller(g.port) as b:
            a.send(post(MESSAGES, asked()))
            engine.arrived.get(timeout=5)
            reply = b.send(post(MESSAGES, asked())).reply()
            assert shown(reply, 429) == "rate_limit_error"
            assert int(reply.headers["retry-after"]) >= 1
            reply = b.send(post(f"{MESSAGES}/count_tokens", asked())).reply()
            assert shown(reply, 501) == "api_error"


def test_an_engine_that_is_gone_is_told_in_anthropics_shape() -> None:
    with RogueEngine(ok(), routes=[MESSAGES]) as engine, gateway(engine) as g, Caller(g.port) as caller:
        engine.refuse()
        replies = [caller.send(post(MESSAGES, asked())).reply() for _ in range(2)]
        assert [shown(replies[0], 502), shown(replies[1], 503)] == ["api_error", "overloaded_error"]
        assert "retry-after" in replies[1].headers


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (402, "billing_error"),
        (409, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (508, "api_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropics_type_goes_by_the_status(status: int, type_: str) -> None:
    body = format_of(MESSAGES).body(ApiError(status, "half a pair: \ud83d"), b"id")
    assert json.loads(body)["error"] == {"type": type_, "message": "half a pair: \ud83d"}
