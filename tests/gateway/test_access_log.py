"""``logging.access``: one line for each request, whatever becomes of it, and none while it is off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    ApiKeySettings,
    LimitSettings,
    LoggingSettings,
    ServerSettings,
    TimeoutSettings,
)
from tests.support.access_lines import Lines
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.simulators import simulated_engine
from tests.support.wire import Caller, chat, post

ON = LoggingSettings(access=True)
USAGE = b'{"usage":{"prompt_tokens":7,"total_tokens":12,"completion_tokens":5}}'


def facts(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)


def test_relayed_request_is_one_line_with_its_facts(lines: Lines) -> None:
    keys = (ApiKeySettings(key=Secret("sk-secret"), name="team-a"),)
    with (
        RogueEngine(ok(USAGE)) as engine,
        gateway(engine, logging=ON, api_keys=keys) as g,
        Caller(g.port) as c,
    ):
        body = chat(content="a secret prompt")
        headers = ("authorization: Bearer sk-secret", "x-request-id: mine")
        assert c.send(post("/v1/chat/completions?key=sk-query", body, *headers)).reply().status == 200
        line = lines.one()
        assert facts(line, "request_id", "method", "path") == ("mine", "POST", "/v1/chat/completions")
        assert facts(line, "status", "outcome", "model", "instance", "tenant") == (
            200,
            "done",
            "m",
            "e0",
            "team-a",
        )
        assert facts(line, "request_bytes", "response_bytes") == (len(body), len(USAGE))
        assert facts(line, "prompt_tokens", "completion_tokens") == (7, 5)
        assert 0 < line["first_byte_ms"] <= line["total_ms"] < 20000
        assert line["message"].startswith("POST /v1/chat/completions 200 in ")
        assert line["message"].endswith(" ms model=m instance=e0 tenant=team-a id=mine")
        assert "secret" not in repr(line)
        assert "sk-" not in repr(line)
        assert lines.found.empty()


def test_name_of_a_model_cannot_look_like_another_fact(lines: Lines) -> None:
    with (
        RogueEngine(ok(), model='m" id=forged\n') as engine,
        gateway(engine, logging=ON) as g,
        Caller(g.port) as c,
    ):
        assert c.chat(model='m" id=forged\n').reply().status == 200
        line = lines.one()
        assert line["model"] == 'm" id=forged\n'
        assert ' model="m\\" id=forged\\n" instance=e0 id=req-' in line["message"]


def test_nothing_is_logged_while_it_is_off_and_reload_turns_it_on_and_off(lines: Lines) -> None:
    with RogueEngine(*[ok()] * 3) as engine, gateway(engine) as g, Caller(g.port) as c:
        for on in (False, True, False):
            g.settings_to_load = replace(g.settings_to_load, logging=LoggingSettings(access=on))
            g.ask(lambda r: r.reload())
            assert c.chat().reply().status == 200
            assert c.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").reply().status == 200
            g.ask(lambda r: None)
            if on:
                assert {lines.one()["path"] for _ in range(2)} == {"/v1/chat/completions", "/health/live"}
            assert lines.found.empty()


def stream(wire: Wire) -> None:
    raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")(wire)
    for event in ('{"choices":[]}', USAGE.decode(), "[DONE]"):
        wire.send(chunk(sse(event)))
    wire.send(b"0\r\n\r\n")


def broken_stream(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.send(chunk(sse("{}")))
    wire.close()


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def leave(caller: Caller) -> None:
    caller.chat()


def whole(caller: Caller) -> None:
    caller.chat().rest()


ENDS: dict[str, tuple[Callable[[Wire], None], Callable[[Caller], object], tuple[Any, ...]]] = {
    "stream": (stream, lambda c: c.chat().reply(), (200, "done", "e0")),
    "cut": (broken_stream, whole, (200, "cut", "e0")),
    "engine's refusal": (
        ok(b"{}", status="400 Bad Request"),
        lambda c: c.chat().reply(),
        (400, "failed", "e0"),
    ),
    "engine's error": (
        ok(b"{}", status="500 Oops"),
        lambda c: c.chat().reply(),
        (500, "failed", "e0"),
    ),
    "garbage": (
        raw(b"nonsense\r\n\r\n", then="close"),
        lambda c: c.chat().reply(),
        (502, "failed", "e0"),
    ),
    "silence": (hang, lambda c: c.chat().reply(), (504, "failed", "e0")),
}


@pytest.mark.parametrize(("answer", "ask", "expected"), ENDS.values(), ids=ENDS)
def test_every_end_of_a_relayed_request_is_a_line(
    lines: Lines, answer: Callable[[Wire], None], ask: Callable[[Caller], object], expected: tuple[Any, ...]
) -> None:
    timeouts = TimeoutSettings(first_byte_s=0.3)
    with (
        RogueEngine(answer) as engine,
        gateway(engine, logging=ON, timeouts=timeouts) as g,
        Caller(g.port) as c,
    ):
        ask(c)
        line = lines.one()
        assert facts(line, "status", "outcome", "instance") == expected
        assert line["total_ms"] > 0
        assert lines.found.empty()
        if expected == (200, "done", "e0"):
            assert line["first_byte_ms"] <= line["total_ms"]


def test_caller_that_leaves_is_a_line_without_a_status(lines: Lines) -> None:
    with RogueEngine(hang) as engine, gateway(engine, logging=ON) as g:
        with Caller(g.port) as c:
            c.chat()
            g.until(lambda r: r.gateway.in_flight == 1)
        assert facts(lines.one(), "status", "outcome", "instance") == (None, "cancelled", "e0")


REFUSED: dict[str, tuple[bytes, tuple[Any, ...]]] = {
    "no key": (post("/v1/chat/completions", chat()), ("POST", "/v1/chat/completions", 401, "refused")),
    "no key for a route of ours": (b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n", ("GET", "/v1/models", 401, "refused")),
    "foreign host": (post("/v1/chat/completions", chat(), host="evil.example"), ("POST", "/v1/chat/completions", 403, "refused")),
    "unknown model": (
        post("/v1/chat/completions", chat("other"), "authorization: Bearer k"),
        ("POST", "/v1/chat/completions", 404, "refused"),
    ),
    "no JSON": (post("/v1/chat/completions", b"{", "authorization: Bearer k"), ("POST", "/v1/chat/completions", 400, "refused")),
    "unknown route": (b"GET /nope HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\n\r\n", ("GET", "/nope", 404, "refused")),
    "wrong method": (b"PUT /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\ncontent-length: 0\r\n\r\n", ("PUT", "/v1/models", 405, "refused")),
    "told too large": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\ncontent-length: 99999\r\n\r\n",
        ("POST", "/v1/chat/completions", 413, "refused"),
    ),
    "found too large": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"1388\r\n" + b"x" * 5000 + b"\r\n",
        ("POST", "/v1/chat/completions", 413, "refused"),
    ),
    "no HTTP": (b"\x16\x03\x01\x00\r\n\r\n", ("-", "-", 400, "refused")),
    "bad framing": (post("/v1/chat/completions", b"", "transfer-encoding: gzip"), ("POST", "/v1/chat/completions", 400, "refused")),
    "large head": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 70000, ("GET", "/health", 431, "refused")),
    "slow head": (b"GET /health HTTP/1.1\r\nhost:", ("GET", "/health", 408, "refused")),
    "slow body": (post("/v1/chat/completions", chat(), "x-api-key: k")[:-3], ("POST", "/v1/chat/completions", 408, "refused")),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "expected"), REFUSED.values(), ids=REFUSED)
def test_every_refusal_is_one_line(lines: Lines, sent: bytes, expected: tuple[Any, ...]) -> None:
    settings = {
        "logging": ON,
        "api_keys": (ApiKeySettings(key=Secret("k")),),
        "limits": LimitSettings(body_bytes=4096),
        "timeouts": TimeoutSettings(header_s=0.3, body_s=0.3),
    }
    with RogueEngine(ok()) as engine, gateway(engine, **settings) as g, Caller(g.port) as c:
        assert c.send(sent).reply().status == expected[2]
        line = lines.one()
        assert facts(line, "method", "path", "status", "outcome") == expected
        g.ask(lambda r: None)
        assert lines.found.empty(), lines.one()


def test_application_lines_have_id_tenant_and_size(lines: Lines) -> None:
    with (
        gateway(logging=ON, api_keys=(ApiKeySettings(key=Secret("k"), name="team-b"),)) as g,
        Caller(g.port) as c,
    ):
        reply = c.send(b"GET /v1/models?x=sk-1 HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\n\r\n").reply()
        line = lines.one()
        assert facts(line, "path", "tenant", "response_bytes") == ("/v1/models", "team-b", len(reply.body))
        assert line["request_id"].startswith("req-")


def test_preflight_of_a_browser_is_a_line(lines: Lines) -> None:
    server = ServerSettings(cors_origins=("https://chat.example",))
    with gateway(logging=ON, server=server) as g, Caller(g.port) as c:
        c.send(
            b"OPTIONS /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: https://chat.example\r\n"
            b"access-control-request-method: GET\r\n\r\n"
        ).reply()
        assert facts(lines.one(), "method", "path", "status") == ("OPTIONS", "/v1/models", 200)


def test_each_caller_of_embeddings_is_a_line(lines: Lines) -> None:
    with simulated_engine("tei") as engine, gateway(engine, logging=ON) as g, contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(g.port)) for _ in range(4)]
        for number, caller in enumerate(callers):
            body = json.dumps({"model": engine.model, "input": f"text {number}"}).encode()
            caller.send(post("/v1/embeddings", body, "content-type: application/json"))
        assert [caller.reply().status for caller in callers] == [200] * 4
        for _ in callers:
            line = lines.one()
            assert facts(line, "path", "status", "outcome") == ("/v1/embeddings", 200, "done")
            assert facts(line, "instance", "model") == ("e0", engine.model)
        assert lines.found.empty()


def test_a_request_through_the_application_of_another_server_is_one_line(lines: Lines) -> None:
    async def scenario(process: InProcess) -> int:
        transport = httpx.ASGITransport(process.running.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post("/v1/chat/completions", content=chat())).status_code

    with RogueEngine(ok()) as engine, gateway(engine, logging=ON) as g:
        assert g._loop is not None
        assert asyncio.run_coroutine_threadsafe(scenario(g), g._loop).result(20) == 200
        assert facts(lines.one(), "path", "status", "instance") == ("/v1/chat/completions", 200, "e0")
        g.ask(lambda r: None)
        assert lines.found.empty()
