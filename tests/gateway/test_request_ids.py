"""Every answer carries one ``x-request-id``, whatever answers and however the request was spelt."""

from __future__ import annotations

import re
from itertools import product

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, LimitSettings, ServerSettings, TimeoutSettings
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, chat, post

ID = re.compile(rb"\r\nx-request-id: ([^\r]*)\r\n", re.I)
SPELT = [
    CHAT,
    "/v1/%63hat/completions",
    "/v1%2Fchat/completions",
    "/%76%31/chat/completions?a=%2F",
    "http://localhost/v1/cha%74/completions",
]
OWN = [
    "GET /health",
    "GET /v1/models",
    "GET /v1/%6dodels",
    "GET /nope",
    "GET /admin/status",
    "POST /admin/policy",
    "GET /admin/policy",
    "HEAD /v1/models",
    "GET " + CHAT,
    "HEAD /info",
    "OPTIONS /v1/models",
]


def raw(g: InProcess, request: bytes) -> bytes:
    with Caller(g.port) as caller:
        return caller.send(request.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)).rest()


def of_engine(engine: RogueEngine) -> list[bytes]:
    return [found for request in engine.requests for found in ID.findall(request)]


@pytest.mark.parametrize("path", SPELT)
@pytest.mark.parametrize("given", [[], ["x-request-id: mine"]], ids=["new", "given"])
def test_caller_and_engine_get_the_same_id(path: str, given: list[str]) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        for _ in range(2):  # the second head is a known one
            answer = raw(g, post(path, chat(), *given))
            assert answer.startswith(b"HTTP/1.1 200")
            [found] = ID.findall(answer)
            assert found == b"mine" if given else found.startswith(b"req-")
            assert of_engine(engine) == [found]
            assert engine.requests.pop().startswith(b"POST /v1/chat/completions")


@pytest.mark.parametrize("path", SPELT)
def test_no_spelling_passes_a_check(path: str) -> None:
    keys = (ApiKeySettings(key=Secret("k")),)
    with (
        RogueEngine(ok()) as engine,
        gateway(engine, api_keys=keys, limits=LimitSettings(body_bytes=999)) as g,
    ):
        assert raw(g, post(path, chat())).startswith(b"HTTP/1.1 401")
        assert raw(g, post(path, chat(pad="x" * 999), "x-api-key: k")).startswith(b"HTTP/1.1 413")
        assert raw(g, post(path, chat(), "x-api-key: k", host="evil.example")).startswith(
            b"HTTP/1.1 200" if path.startswith("http:") else b"HTTP/1.1 403"
        )
        assert engine.requests == [] or path.startswith("http:")


def test_what_the_gateway_answers_itself_carries_one() -> None:
    keys = (ApiKeySettings(key=Secret("k")),)
    server = ServerSettings(cors_origins=("https://page.example",))
    callers = (
        "",
        "x-api-key: k\r\n",
        f"authorization: {ADMIN['authorization']}\r\n",
        "origin: https://page.example\r\n",
        "origin: https://evil.example\r\n",
    )
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=keys, server=server) as g:
        for request_line, caller in product(OWN, callers):
            head = f"{request_line} HTTP/1.1\r\nhost: localhost\r\n{caller}"
            [found] = ID.findall(raw(g, f"{head}\r\n".encode()))
            assert found.startswith(b"req-")
            assert ID.findall(raw(g, f"{head}x-request-id: mine\r\n\r\n".encode())) == [b"mine"]


def test_a_preflight_carries_one() -> None:
    server = ServerSettings(cors_origins=("https://page.example",))
    asks = "origin: https://page.example\r\naccess-control-request-method: POST\r\n"
    with gateway(server=server) as g:
        for path in ("/v1/models", CHAT):
            answer = raw(g, f"OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\n{asks}\r\n".encode())
            assert answer.startswith(b"HTTP/1.1 200")
            assert len(ID.findall(answer)) == 1


def test_of_several_the_first_that_can_be_one_counts() -> None:
    ids = ["x-request-id: ", "x-request-id: " + "x" * 201, "X-Request-ID: a", "x-request-id: b"]
    with RogueEngine(ok("{}", "x-request-id: engines")) as engine, gateway(engine) as g:
        assert ID.findall(raw(g, post(CHAT, chat(), *ids))) == [b"a"]
        assert of_engine(engine) == [b"a"]
        head = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + "\r\n".join(ids)
        assert ID.findall(raw(g, f"{head}\r\n\r\n".encode())) == [b"a"]


HOST = b"host: localhost\r\n"
REFUSED = {
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
    "bad header": (b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n", 400),
    "two lengths": (
        b"POST / HTTP/1.1\r\n%bcontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n" % HOST,
        400,
    ),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "fragment": (b"GET /#a HTTP/1.1\r\n%b\r\n" % HOST, 400),
    "many headers": (b"GET / HTTP/1.1\r\n%b%b\r\n" % (HOST, b"a: b\r\n" * 100), 431),
    "long headers": (b"GET / HTTP/1.1\r\n%ba: %b\r\n\r\n" % (HOST, b"x" * 70000), 431),
    "long line": (b"GET /" + b"x" * 70000, 431),
    "slow head": (b"GET / HTTP/1.1\r\na: b\r\n", 408),
    "slow body": (post(CHAT, chat())[:-3], 408),
    "slow body for the application": (
        post("/admin/reload", b"{}", f"authorization: {ADMIN['authorization']}")[:-1],
        408,
    ),
    "bad chunk": (
        b"POST %b HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\nxyz\r\n" % (CHAT.encode(), HOST),
        400,
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refusal_of_the_parser_carries_one(why: str) -> None:
    request, status = REFUSED[why]
    timeouts = TimeoutSettings(header_s=0.2, body_s=0.2)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        answer = caller.send(request).rest()
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        [found] = ID.findall(answer)
        assert found.startswith(b"req-")


@pytest.mark.parametrize(
    "why", ["many headers", "fragment", "slow head", "slow body", "slow body for the application"]
)
def test_a_refusal_carries_the_callers_own_where_that_was_read(why: str) -> None:
    request, _ = REFUSED[why]
    request = request.replace(b"\r\n", b"\r\nx-request-id: mine\r\n", 1)
    timeouts = TimeoutSettings(header_s=0.2, body_s=0.2)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        caller.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: before\r\n\r\n")
        assert caller.reply().headers["x-request-id"] == "before"
        assert ID.findall(caller.send(request).rest()) == [b"mine"]


def test_too_many_connections_carry_one() -> None:
    with gateway(limits=LimitSettings(connections=1)) as g, Caller(g.port) as first:
        first.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").reply()
        with Caller(g.port) as second:
            answer = second.rest()
        assert answer.startswith(b"HTTP/1.1 503")
        assert len(ID.findall(answer)) == 1


def test_a_refusal_after_an_answer_does_not_repeat_its_id() -> None:
    with gateway() as g, Caller(g.port) as caller:
        caller.send(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nx-request-id: before\r\n\r\n").reply()
        [found] = ID.findall(caller.send(b"\x00\r\n\r\n").rest())
        assert found.startswith(b"req-")
