"""An engine's headers that would act on the gateway's origin in a browser stay with the gateway."""

from __future__ import annotations

import pytest

import sage_inference as si
from sage_inference.config.settings import ServerSettings
from tests.library.test_server import mounted
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, chunk, ok, raw
from tests.support.wire import CHAT, Caller, chat, post

DROPPED = [
    "Set-Cookie: a=b",
    "SET-COOKIE: c=d; Domain=localhost",
    "set-cookie2: a=b",
    "Strict-Transport-Security: max-age=31536000; includeSubDomains",
    "Public-Key-Pins: pin-sha256=x",
    "Clear-Site-Data: *",
    "Access-Control-Allow-Origin: *",
    "Access-Control-Allow-Credentials: true",
    "access-control-expose-headers: *",
    "Access-Control-Allow-Private-Network: true",
    "Cross-Origin-Resource-Policy: cross-origin",
    "Timing-Allow-Origin: *",
    "Service-Worker-Allowed: /",
    'Alt-Svc: h2="evil.example:443"',
    "Refresh: 0; url=https://evil.example",
    "Location: http://127.0.0.1:9/elsewhere",
    "NEL: {}",
    "Report-To: {}",
    'Reporting-Endpoints: a="https://evil.example"',
    "Accept-CH: Sec-CH-UA",
    "Origin-Agent-Cluster: ?1",
    "X-Accel-Redirect: /secret",
    "X-Request-Id: the-engines",
    "X-Sage-Instance: another",
]
KEPT = {
    "openai-processing-ms": "5",
    "openai-organization": "o",
    "x-ratelimit-remaining-requests": "9",
    "retry-after": "3",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "www-authenticate": "Bearer",
    "x-accel-buffering": "no",
    "x-compute-time": "1",
    "x-set-cookie": "kept",
    "accept-control-x": "kept",
    "server": "engine",
    "etag": "1",
    "set-cookies": "kept",
    "locations": "kept",
}
HEADERS = [*DROPPED, *(f"{name}: {value}" for name, value in KEPT.items())]
NAMES = {line.partition(":")[0].lower() for line in DROPPED}
OURS = {"x-request-id", "x-sage-instance"}


def lines(*more: str, status: str = "200 OK") -> str:
    return "\r\n".join([f"HTTP/1.1 {status}", "content-type: application/json", *HEADERS, *more]) + "\r\n\r\n"


LONG = b'{"pad":"' + b"x" * 70_000 + b'"}'
ANSWERS = {
    "known length": ok(b"{}", *HEADERS),
    "long": ok(LONG, *HEADERS),
    "chunked": raw(lines("transfer-encoding: chunked").encode() + chunk(b"{}") + b"0\r\n\r\n"),
    "to the end": raw(lines("connection: close").encode() + b"{}", then="close"),
    "error": ok(b"{}", *HEADERS, status="400 Bad Request"),
    "server error": ok(b"{}", *HEADERS, status="500 Internal Server Error"),
    "empty": raw(lines(status="204 No Content")),
    "redirect": ok(b"", *HEADERS, status="307 Temporary Redirect"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_they_do_not_reach_the_caller(kind: str) -> None:
    body = chat(input="a", inputs="a", prompt="p")
    with RogueEngine(ANSWERS[kind]) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for path in (CHAT, CHAT, "/v1/completions", "/v1/embeddings", "/embed"):  # one head is a known one
            headers = caller.send(post(path, body)).reply().headers
            assert NAMES & set(headers) <= OURS
            assert headers.get("x-request-id", "req-").startswith("req-")
            assert headers.get("x-sage-instance", "e0") == "e0"
            if path in (CHAT, "/v1/completions") and kind != "server error":
                assert {name: headers.get(name) for name in KEPT} == KEPT


def test_trailers_and_folded_lines_bring_none() -> None:
    trailer = lines("transfer-encoding: chunked", "trailer: set-cookie").encode()
    trailer += chunk(b"{}") + b"0\r\nSet-Cookie: a=b\r\nx-trailer: 1\r\n\r\n"
    folded = raw(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n Set-Cookie: a=b\r\ncontent-length: 2\r\n\r\n{}")
    spaced = raw(b"HTTP/1.1 200 OK\r\nSet-Cookie : a=b\r\ncontent-length: 2\r\n\r\n{}")
    for answer in (raw(trailer), folded, spaced):
        with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
            whole = caller.send(post(CHAT, chat(), "connection: close")).rest()
            assert b"\r\nset-cookie:" not in whole.lower()


def test_an_allowed_page_gets_the_gateways_own_permission() -> None:
    server = ServerSettings(cors_origins=("https://page.example",))
    with RogueEngine(ok(b"{}", *HEADERS)) as engine, gateway(engine, server=server) as g:
        with Caller(g.port) as caller:
            whole = caller.send(
                post(CHAT, chat(), "origin: https://page.example", "connection: close")
            ).rest()
    assert whole.count(b"access-control-allow-origin") == 1
    assert b"access-control-allow-origin: https://page.example\r\n" in whole


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_nor_where_the_gateway_is_mounted(http: str) -> None:
    with RogueEngine(ok(b"{}", *HEADERS)) as engine, mounted(engine, http=http) as outer:
        with Caller(outer.port) as caller:
            headers = caller.send(post(f"/llm{CHAT}", chat())).reply().headers
            assert NAMES & set(headers) <= OURS
            assert headers["openai-processing-ms"] == "5"


def test_a_client_without_a_gateway_reads_what_it_needs() -> None:
    answer = ok(b'{"choices":[{"message":{"content":"hi"}}]}', *HEADERS)
    with RogueEngine(answer) as engine:
        address = {"host": "127.0.0.1", "port": engine.port, "model_name": "m", "instance_type": "general"}
        with si.UnifiedInferenceClient.create_with_control_plane(instances=[address]) as client:
            assert client.chat("hi") == "hi"
