"""``/admin``: who may call it, and how much they may send."""

from __future__ import annotations

import json
import logging

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, LimitSettings, ServerSettings
from tests.support.inprocess import ADMIN, ADMIN_TOKEN, InProcess, gateway
from tests.support.rogue import RogueEngine, chunk, ok
from tests.support.wire import Caller, Reply

KEYS = (ApiKeySettings(key=Secret("callers-key")),)
ROUTES = [
    ("GET", "/admin/status"),
    ("HEAD", "/admin/status"),
    ("POST", "/admin/reload"),
    ("GET", "/admin/instances"),
    ("POST", "/admin/instances"),
    ("POST", "/admin/instances/e0/drain"),
    ("DELETE", "/admin/instances/e0"),
    ("GET", "/admin/decisions/r"),
    ("GET", "/admin/policy"),
    ("PUT", "/admin/policy"),
]
TOKEN = f"authorization: {ADMIN['authorization']}"
ESCAPED = [("GET", "/%61dmin/status"), ("PUT", "/admin/%70olicy"), ("DELETE", "/admin%2Finstances/e0")]
UNKNOWN = [("GET", "/admin"), ("GET", "/admin/"), ("POST", "/admin/nope"), ("OPTIONS", "/admin/policy")]


def ask(g: InProcess, method: str, path: str, *headers: str) -> Reply:
    """By hand: a client library would refuse some of these headers."""
    document = {"policy": "random", "url": "http://127.0.0.1:9", "name": "evil", "kind": "llm"}
    body = json.dumps(document).encode() if method in ("POST", "PUT") else b""
    given = () if any(line.startswith("host:") for line in headers) else ("host: localhost",)
    lines = [f"{method} {path} HTTP/1.1", *given, f"content-length: {len(body)}", *headers]
    with Caller(g.port) as caller:
        caller.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return caller.head() if method == "HEAD" else caller.reply()


def unchanged(g: InProcess) -> bool:
    names, policy = g.ask(lambda r: (list(r.gateway.engines), r.gateway.scheduler.policy.name))
    return names == ["e0"] and policy == "hybrid"


@pytest.mark.parametrize("keys", [(), KEYS], ids=["open", "with keys"])
def test_without_a_credential_everything_is_401(keys: tuple[ApiKeySettings, ...]) -> None:
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=keys, admin_key=Secret("adm")) as g:
        for method, path in (*ROUTES, *ESCAPED, *UNKNOWN):
            reply = ask(g, method, path)
            assert reply.status == 401, (method, path)
            assert reply.headers["www-authenticate"] == "Bearer"
        error = ask(g, "GET", "/admin/status").error
        assert (error["type"], error["code"]) == ("authentication_error", "no_admin_key")
        assert "sage inference admin-header" in error["message"]
        for claims in (
            ["x-forwarded-for: 127.0.0.1"],
            ["x-real-ip: 127.0.0.1", "forwarded: for=127.0.0.1"],
            ["host: 127.0.0.1"],
            ["authorization: Basic YWRtaW46YWRtaW4="],
            ["authorization: Bearer "],
            [f"authorization: {ADMIN_TOKEN}"],
            ["x-api-key:"],
            [f"cookie: authorization={ADMIN_TOKEN}"],
        ):
            assert ask(g, "PUT", "/admin/policy", *claims).status == 401, claims
        assert unchanged(g)


@pytest.mark.parametrize("name", ["authorization: Bearer", "x-api-key:"])
def test_a_wrong_credential_is_403_and_a_callers_key_is_a_wrong_one(name: str) -> None:
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=KEYS, admin_key=Secret("adm")) as g:
        for method, path in (*ROUTES, *ESCAPED, *UNKNOWN):
            assert ask(g, method, path, f"{name} callers-key").status == 403, (method, path)
        for shown in ("wrong", ADMIN_TOKEN[:-1], f"{ADMIN_TOKEN}x", "adm ADM", "\xff", "none", "callers-key"):
            error = ask(g, "GET", "/admin/status", f"{name} {shown}").error
            assert (error["type"], error["code"]) == ("permission_error", "wrong_admin_key")
        assert unchanged(g)


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_the_token_and_the_admin_key_open_it_from_anywhere(bound: str) -> None:
    server = ServerSettings(host=bound)
    with gateway(admin_key=Secret("adm"), api_keys=KEYS, server=server) as g:
        for headers in (
            [f"authorization: Bearer {ADMIN_TOKEN}"],
            ["authorization: bearer  adm"],
            ["x-api-key: adm"],
            ["authorization: Basic YWRtaW46YWRtaW4=", f"x-api-key: {ADMIN_TOKEN}"],
            ["authorization: Bearer callers-key", "x-api-key: adm"],
            ["authorization: Bearer adm", "x-forwarded-for: 1.2.3.4", "via: 1.1 nginx"],
        ):
            assert ask(g, "GET", "/admin/status", *headers).status == 200, headers
            assert b'"policy":"random"' in ask(g, "PUT", "/admin/policy", *headers).body


def test_the_token_is_good_for_admin_alone_and_outlives_a_reload() -> None:
    with gateway(api_keys=KEYS) as g:
        assert ask(g, "GET", "/v1/models", TOKEN).status == 401
        assert ask(g, "POST", "/admin/reload", TOKEN).status == 200
        assert ask(g, "GET", "/admin/status", TOKEN).status == 200
        assert ask(g, "GET", "/v1/models", "authorization: Bearer callers-key").status == 200


def test_the_token_is_nowhere_to_be_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        paths = ("/admin/status", "/metrics", "/", "/admin/policy", "/admin/nope")
        shown = [ask(g, "GET", path, TOKEN).body for path in paths]
        shown.append(ask(g, "GET", "/admin/status", f"x-api-key: {ADMIN_TOKEN}x").body)
    assert ADMIN_TOKEN not in b"".join(shown).decode() + caplog.text


# What may be sent

MiB = 1 << 20
PUT = f"PUT /admin/policy HTTP/1.1\r\nhost: localhost\r\n{TOKEN}\r\n"
CHUNKED = f"{PUT}transfer-encoding: chunked\r\n\r\n".encode()


def padded(size: int) -> bytes:
    document = b'{"policy":"random"}'
    return document + b" " * (size - len(document))


def put(caller: Caller, body: bytes) -> Reply:
    return caller.send(f"{PUT}content-length: {len(body)}\r\n\r\n".encode() + body).reply()


def test_a_body_of_one_mebibyte_is_taken_and_a_longer_one_is_413() -> None:
    with gateway() as g, Caller(g.port) as caller:
        assert put(caller, padded(MiB)).status == 200
        assert put(caller, padded(MiB + 1)).status == 413
        assert put(caller, padded(20)).status == 200  # and the connection is as good as before


def test_a_body_that_is_too_long_is_refused_before_it_is_here() -> None:
    with gateway() as g, Caller(g.port) as caller:
        reply = caller.send(f"{PUT}content-length: {MiB + 1}\r\n\r\n".encode()).reply()
        assert (reply.status, reply.error["type"]) == (413, "invalid_request_error")
        assert str(MiB) in reply.error["message"]


@pytest.mark.parametrize("piece", [1000, 65536, 300_000], ids=str)
def test_a_chunked_body_is_refused_once_it_is_too_long(piece: int) -> None:
    with gateway() as g, Caller(g.port) as caller:
        caller.send(CHUNKED + chunk(b" " * piece) * (MiB // piece + 1))
        assert caller.reply().status == 413
        # The rest of it is read and dropped.
        caller.send(chunk(b" " * 1_000_000) * 8 + b"0\r\n\r\n")
        assert put(caller, padded(20)).status == 200


def test_every_admin_route_has_that_bound() -> None:
    with gateway() as g:
        for method, path in ROUTES[2:]:
            head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{TOKEN}\r\n"
            with Caller(g.port) as caller:
                reply = caller.send(f"{head}content-length: {MiB + 1}\r\n\r\n".encode()).reply()
                assert reply.status == 413, (method, path)


def test_an_odd_body_is_400() -> None:
    with gateway() as g, Caller(g.port) as caller:
        for body in (
            b"",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"policy":"\xff"}',
            b"\0",
            b"[]",
            b"5",
            b"9" * 9999,
        ):
            assert put(caller, body).status == 400, body[:20]


def test_a_stranger_is_refused_before_its_body_is_read() -> None:
    with gateway() as g, Caller(g.port) as caller:
        head = "PUT /admin/policy HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500000000\r\n\r\n"
        assert caller.send(head.encode() + b"x" * 100_000).reply().status == 401


def test_a_caller_that_leaves_amid_its_body_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    with gateway() as g:
        with Caller(g.port) as caller:
            caller.send(CHUNKED + chunk(b"{"))
            g.until(lambda r: r.gateway.connections == 1)
        g.until(lambda r: r.gateway.connections == 0)
        assert ask(g, "GET", "/health/live").status == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/%63hat/completions"])
def test_other_routes_keep_to_the_limit_of_bodies(path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with RogueEngine(ok()) as engine, gateway(engine, limits=LimitSettings(body_bytes=5000)) as g:
        with Caller(g.port) as caller:
            assert caller.send(head + chunk(b"x" * 5001)).reply().status == 413
        assert engine.requests == []
