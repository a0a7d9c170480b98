"""What belongs to one hop stays on it: Expect, versions, methods, targets, upgrades, connection headers."""

from __future__ import annotations

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, LimitSettings, ServerSettings
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

CONTINUE = b"HTTP/1.1 100 Continue"
EXPECT = "Expect: 100-continue"


def head_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def bare(method: str, target: str, *headers: str) -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "host: localhost", *headers, "", "")).encode()


def test_100_continue_waits_for_its_turn_behind_a_running_stream() -> None:
    def held(wire: Wire) -> None:
        wire.send(sse("one"))
        wire.engine.go.wait(20)
        wire.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    expecting = post(CHAT, chat(), EXPECT)
    with RogueEngine(held, ok("second")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        assert caller.head().status == 200
        assert caller.chunk() == b"data: one\n\n"
        caller.send(head_of(expecting))
        with Caller(g.port) as other:  # answered only after the gateway has read the above
            assert other.send(bare("GET", "/health/live")).reply().status == 200
        engine.go.set()
        assert [caller.chunk(), caller.chunk()] == [b"data: two\n\n", b""]
        assert (caller.line(), caller.line()) == (CONTINUE, b"")
        assert caller.send(chat()).reply().body == b"second"


@pytest.mark.parametrize(
    ("headers", "status"),
    [((EXPECT,), 413), ((EXPECT, "Authorization: Bearer wrong"), 401)],
    ids=["size", "key"],
)
def test_who_is_refused_by_the_head_alone_is_not_told_to_continue(
    headers: tuple[str, ...], status: int
) -> None:
    keys = (ApiKeySettings(key=Secret("right")),) if status == 401 else ()
    limits = LimitSettings(body_bytes=10 if status == 413 else 1000)
    with (
        RogueEngine(ok()) as engine,
        gateway(engine, api_keys=keys, limits=limits) as g,
        Caller(g.port) as caller,
    ):
        assert caller.send(head_of(post(CHAT, chat(), *headers))).reply().status == status
        assert caller.closed()
        assert engine.requests == []


def test_http_1_0_knows_no_100_continue_and_no_keep_alive() -> None:
    request = post(CHAT, chat(), EXPECT, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    with RogueEngine(ok("done")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(request).reply()
        assert (reply.status, reply.body) == (200, b"done")
        assert reply.headers["connection"] == "close"
        assert caller.closed()


def test_a_stream_to_http_1_0_that_is_cut_ends_with_the_error_and_without_done() -> None:
    request = post(CHAT, chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0")
    with RogueEngine(raw(sse("one"), then="reset")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        body = caller.send(request).reply().body
        assert body.startswith(b'data: one\n\ndata: {"error":')
        assert b"[DONE]" not in body


@pytest.mark.parametrize("path", ["/health", "/v1/models", CHAT, "/nowhere"])
def test_head_is_answered_without_a_body_and_the_connection_stays_in_step(path: str) -> None:
    with RogueEngine(ok("next")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        status = caller.send(bare("HEAD", path)).head().status
        assert status == (405 if path == CHAT else 404 if path == "/nowhere" else 200)
        assert caller.chat().reply().body == b"next"


@pytest.mark.parametrize(("target", "status"), [("*", 404), (CHAT, 405), ("/v1/models", 405)])
def test_options_is_answered_here_and_the_connection_stays_in_step(target: str, status: int) -> None:
    with RogueEngine(ok("next")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.send(bare("OPTIONS", target)).reply().status == status
        assert caller.chat().reply().body == b"next"
        assert len(engine.requests) == 1


def test_a_browsers_preflight_is_answered_where_its_origin_is_allowed() -> None:
    server = ServerSettings(cors_origins=("https://chat.example",))
    preflight = bare("OPTIONS", CHAT, "Origin: https://chat.example", "Access-Control-Request-Method: POST")
    with RogueEngine(ok()) as engine, gateway(engine, server=server) as g, Caller(g.port) as caller:
        reply = caller.send(preflight).reply()
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://chat.example")
        assert engine.requests == []


def test_100_continue_is_said_each_time_it_is_expected() -> None:
    expecting = post(CHAT, chat(), EXPECT)
    with RogueEngine(ok("done")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for _ in range(3):
            caller.send(head_of(expecting))
            assert (caller.line(), caller.line()) == (CONTINUE, b"")
            assert caller.send(chat()).reply().body == b"done"


@pytest.mark.parametrize("host", ["a/b", "me@a", "a, b", "a b", "[::1"])
def test_a_malformed_host_is_refused_where_names_are_not_checked_too(host: str) -> None:
    server = ServerSettings(host="0.0.0.0", insecure=True)
    with RogueEngine(ok()) as engine, gateway(engine, server=server) as g, Caller(g.port) as caller:
        assert caller.send(post(CHAT, chat(), host="workstation.lan")).reply().status == 200
        assert caller.send(post(CHAT, chat(), host=host)).reply().status == 400
        assert caller.closed()


@pytest.mark.parametrize(
    "first", [bare("GET", "/v1/models"), post(CHAT, chat())], ids=["not relayed", "relayed"]
)
def test_what_makes_no_sense_is_not_answered_in_the_place_of_the_request_before_it(first: bytes) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert not caller.send(first + b"x\0y\r\n\r\n").rest().startswith(b"HTTP/1.1 4")


def test_nothing_that_comes_along_with_a_refused_request_reaches_an_engine() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().reply().status == 200  # so that there is a connection to send it over
        assert caller.send(post(CHAT, chat(), host="evil.example") + post(CHAT, chat())).reply().status == 403
        assert caller.closed()
        assert len(engine.requests) == 1


def test_connect_is_refused() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n" + post(CHAT, chat()))
        assert caller.reply().status == 400
        assert caller.closed()
        assert engine.requests == []


def test_an_absolute_target_keeps_its_query_and_loses_the_rest() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.send(post(f"HTTP://127.0.0.1:1{CHAT}?a=b%20c&d", chat())).reply().status == 200
        assert engine.requests[0].startswith(b"POST /v1/chat/completions?a=b%20c&d HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "offer",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        ("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    ],
    ids=["h2c", "websocket"],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "one by one"])
def test_an_offered_upgrade_is_passed_over_and_what_follows_is_served(
    offer: tuple[str, ...], together: bool
) -> None:
    first, second = post(CHAT, chat(), *offer), post(CHAT, chat())
    with RogueEngine(ok("1"), ok("2")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(first + second if together else first)
        reply = caller.reply()
        if not together:
            caller.send(second)
        assert (reply.status, reply.body, caller.reply().body) == (200, b"1", b"2")
        assert "upgrade" not in reply.headers
        heads = [request.partition(b"\r\n\r\n")[0].lower() for request in engine.requests]
        assert not any(word in head for head in heads for word in (b"upgrade", b"http2-settings", b"h2c"))


def test_all_headers_that_any_connection_header_names_stay_on_their_hop() -> None:
    answer = ok("{}", "Connection: x-a", "connection: keep-alive , X-B", "X-A: 1", "x-b: 2", "x-c: 3")
    sent = ("Connection: X-A", "connection: keep-alive ,x-b", "x-a: 1", "X-B: 2", "x-c: 3")
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post(CHAT, chat(), *sent)).reply()
        head = engine.requests[0].lower()
        assert b"\r\nx-c: 3\r\n" in head
        assert reply.headers["x-c"] == "3"
        assert not any(name in head for name in (b"x-a", b"x-b", b"connection"))
        assert not {"x-a", "x-b", "connection"} & set(reply.headers)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("claim", ["content-length: 5", "transfer-encoding: chunked", "x: y"])
def test_an_answer_without_body_leaves_the_connection_in_step(status: str, claim: str) -> None:
    empty = raw(f"HTTP/1.1 {status}\r\n{claim}\r\n\r\n")
    with RogueEngine(empty, ok("next")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().head().status == int(status[:3])
        assert caller.chat().reply().body == b"next"


def test_an_answer_before_the_body_was_taken_leaves_its_connection_to_nobody_else() -> None:
    """The rest of that body is still on its way: what came behind it might never be read."""

    def takes_nothing_more(wire: Wire) -> None:
        ok("early")(wire)
        wire.engine.go.wait(20)

    body = chat(text="x" * (20 << 20))
    with RogueEngine(takes_nothing_more, ok("late"), early=1) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            assert caller.send(post(CHAT, body)).reply().body == b"early"
            assert caller.chat().reply().body == b"late"
        engine.go.set()
        assert engine.connections == 2
