"""What a caller gets when the engine behaves, and what each side sees of the other's headers."""

from __future__ import annotations

import json

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings, LimitSettings, TimeoutSettings
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post


def test_bodies_pass_byte_for_byte_in_both_directions() -> None:
    body = (
        b'{ "messages" : [ ] ,\n"model":"m", "seed": 12345678901234567890, "x":"\\u00e9\xc3\xa9", "x":1.0e0 }'
    )
    said = b'{"a": 1.50,\r\n"b":"\\ud83d\\ude00", "c":\t[ ]}\n'
    with RogueEngine(ok(said)) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post(CHAT, body)).reply()
        assert reply.body == said
        assert engine.requests[0].endswith(b"\r\n\r\n" + body)


def test_a_stream_arrives_as_it_is_sent_and_ends_cleanly() -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse("one"))
        wire.engine.go.wait(20)
        wire.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        assert caller.head().status == 200
        assert caller.chunk() == b"data: one\n\n"
        engine.go.set()
        assert caller.chunk() == b"data: two\n\n"
        assert caller.chunk() == b""


def test_keep_alive_serves_requests_in_order_over_one_connection_each_side() -> None:
    with RogueEngine(ok("1"), ok("2"), ok("3")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert [caller.chat().reply().body for _ in range(3)] == [b"1", b"2", b"3"]
        assert engine.connections == 1


def test_pipelined_requests_are_answered_in_order_relayed_or_not() -> None:
    with RogueEngine(ok("1"), ok("2")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        models = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
        caller.send(post(CHAT, chat()) + models + post(CHAT, chat()) + models)
        replies = [caller.reply() for _ in range(4)]
        assert [r.body for r in replies[::2]] == [b"1", b"2"]
        assert all(r.json["data"][0]["id"] == "m" for r in replies[1::2])  # type: ignore[index]


def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    answer = ok(
        "{}", "Connection: keep-alive, x-mine", "Keep-Alive: timeout=5", "X-Engine: yes", "Upgrade: h2c"
    )
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        sent = (
            "Connection: keep-alive, x-private",
            "x-private: 1",
            "TE: trailers",
            "Keep-Alive: 5",
            "x-custom: 2",
        )
        reply = caller.send(post(CHAT, chat(), *sent)).reply()
        head = engine.requests[0].lower()
        assert b"x-custom: 2\r\n" in head
        assert not any(name in head for name in (b"x-private", b"\nte:", b"keep-alive", b"upgrade"))
        assert reply.headers["x-engine"] == "yes"
        assert not {"keep-alive", "upgrade", "connection"} & set(reply.headers)


def test_the_callers_request_id_reaches_the_engine_and_comes_back() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert (
            caller.send(post(CHAT, chat(), "x-request-id: abc-1")).reply().headers["x-request-id"] == "abc-1"
        )
        assert b"x-request-id: abc-1\r\n" in engine.requests[0]
        ours = caller.chat().reply().headers["x-request-id"]
        assert f"x-request-id: {ours}\r\n".encode() in engine.requests[1]


def test_the_answering_instance_is_named() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().reply().headers["x-sage-instance"] == "e0"


def test_the_gateways_key_is_not_shown_to_engines_and_theirs_is_sent() -> None:
    with RogueEngine(ok()) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", api_key=Secret("engine-key"))
        keys = (ApiKeySettings(key=Secret("our-key")),)
        with gateway(instance, api_keys=keys) as g, Caller(g.port) as caller:
            caller.send(post(CHAT, chat(), "Authorization: Bearer our-key", "x-api-key: our-key")).reply()
        assert b"authorization: Bearer engine-key\r\n" in engine.requests[0]
        assert b"our-key" not in engine.requests[0]


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ((), "no API key"),
        (("Authorization: Bearer wrong",), "wrong API key"),
        (("Authorization: our-key",), "Bearer KEY"),
    ],
    ids=["none", "wrong", "no scheme"],
)
def test_a_wrong_or_absent_key_is_401_and_no_engine_hears_of_it(
    headers: tuple[str, ...], message: str
) -> None:
    keys = (ApiKeySettings(key=Secret("our-key")),)
    with RogueEngine(ok()) as engine, gateway(engine, api_keys=keys) as g, Caller(g.port) as caller:
        reply = caller.send(post(CHAT, chat(), *headers)).reply()
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.error["code"] == "invalid_api_key"
        assert message in reply.error["message"]
        assert engine.requests == []


def test_an_alias_changes_the_model_and_nothing_else() -> None:
    body = b'{"model":"gpt-4o","messages":[],"seed":1.50,"z":{"a": "\\u00e9"}}'
    with RogueEngine(ok()) as engine, gateway(engine, aliases={"gpt-4o": "m"}) as g, Caller(g.port) as caller:
        assert caller.send(post(CHAT, body)).reply().status == 200
        assert engine.requests[0].endswith(b'{"model":"m","messages":[],"seed":1.50,"z":{"a": "\\u00e9"}}')


def test_a_missing_model_is_filled_in_where_only_one_is_served() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.send(post(CHAT, b'{"messages":[]}')).reply().status == 200
        assert json.loads(engine.requests[0].split(b"\r\n\r\n")[1]) == {"messages": [], "model": "m"}


def test_a_missing_model_is_asked_for_where_several_are_served() -> None:
    with (
        RogueEngine(ok()) as a,
        RogueEngine(ok(), model="n") as b,
        gateway(a, b) as g,
        Caller(g.port) as caller,
    ):
        reply = caller.send(post(CHAT, b'{"messages":[]}')).reply()
        assert (reply.status, reply.error["param"]) == (400, "model")
        assert "m, n" in reply.error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"m"}', "messages"),
        (b"\xff\xfe", None),
        (b"[" * 100000, None),
    ],
    ids=["empty", "cut", "list", "string", "model is a number", "no messages", "not utf-8", "deep"],
)
def test_a_body_no_engine_could_read_is_400_and_names_the_field(body: bytes, param: str | None) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post(CHAT, body)).reply()
        assert (reply.status, reply.error["type"], reply.error["param"]) == (
            400,
            "invalid_request_error",
            param,
        )
        assert engine.requests == []
        assert caller.chat().reply().status == 200  # and the connection still serves


def test_an_unknown_model_is_404_and_the_message_lists_those_served() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat(model="nope").reply()
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert reply.error["message"] == 'no instance serves model "nope"; served now: m'


def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    answer = raw(sse("one", "two") + b"0\r\n\r\n")
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(post(CHAT, chat()).replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = caller.reply()
        assert reply.body == b"data: one\n\ndata: two\n\n"
        assert "transfer-encoding" not in reply.headers


def test_expect_100_continue_is_answered_before_the_body_is_sent() -> None:
    body = chat()
    with RogueEngine(ok("done")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        head, _, _ = post(CHAT, body, "Expect: 100-continue").partition(b"\r\n\r\n")
        caller.send(head + b"\r\n\r\n")
        assert caller.line() == b"HTTP/1.1 100 Continue"
        assert caller.line() == b""
        assert caller.send(body).reply().body == b"done"
        assert b"expect" not in engine.requests[0].lower()


def test_an_absolute_form_target_is_served_by_its_path() -> None:
    with RogueEngine(ok("done")) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post("http://127.0.0.1" + CHAT, chat())).reply()
        assert reply.body == b"done"
        assert engine.requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


def test_a_chunked_request_body_reaches_the_engine_whole() -> None:
    body = chat(text="x" * 5000)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for piece in (head, chunk(body[:10]), chunk(body[10:]), b"0\r\n\r\n"):
            caller.send(piece)
        assert caller.reply().status == 200
        assert engine.requests[0].endswith(b"\r\n\r\n" + body)
        assert b"transfer-encoding" not in engine.requests[0]


def test_a_wrong_method_is_405_and_names_the_right_one() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(f"GET {CHAT} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()).reply()
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert reply.error["type"] == "invalid_request_error"


def test_an_unknown_route_is_404_in_the_apis_shape() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.send(post("/v1/nope", b"{}")).reply()
        assert (reply.status, reply.error["type"]) == (404, "invalid_request_error")


def test_foreign_hosts_and_origins_are_403_on_a_loopback_bind() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        for request in (
            post(CHAT, chat(), host="evil.example"),
            post(CHAT, chat(), "Origin: https://evil.example"),
            post(CHAT, chat(), "Origin: null"),
            b"GET /v1/models HTTP/1.1\r\nhost: evil.example:8000\r\n\r\n",
        ):
            with Caller(g.port) as caller:
                reply = caller.send(request).reply()
                assert (reply.status, reply.error["type"]) == (403, "permission_error")
        assert engine.requests == []


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "127.0.0.2", "gpu.lan"]
)
def test_the_machines_own_names_are_served(host: str) -> None:
    from sage_inference.config.settings import ServerSettings

    server = ServerSettings(allowed_hosts=("gpu.lan",))
    with RogueEngine(ok()) as engine, gateway(engine, server=server) as g, Caller(g.port) as caller:
        assert caller.send(post(CHAT, chat(), f"Origin: http://{host}", host=host)).reply().status == 200


def test_a_body_over_the_limit_is_413_told_before_it_is_read() -> None:
    limits = LimitSettings(body_bytes=1000)
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g:
        with Caller(g.port) as caller:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n".encode()
            reply = caller.send(head).reply()
            assert (reply.status, reply.error["type"]) == (413, "invalid_request_error")
            assert caller.closed()
        with Caller(g.port) as caller:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
            assert caller.send(head + chunk(b"x" * 1001)).reply().status == 413
        assert engine.requests == []


@pytest.mark.parametrize(
    "flood", [b"x-a: " + b"y" * 4000 + b"\r\n", b"x-a: y\r\n" * 30], ids=["bytes", "count"]
)
def test_headers_over_the_limit_are_431(flood: bytes) -> None:
    limits = LimitSettings(header_bytes=2048, headers=20)
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        request = post(CHAT, chat()).replace(b"\r\n", b"\r\n" + flood, 1)
        assert caller.send(request).reply().status == 431
        assert engine.requests == []


@pytest.mark.parametrize(
    ("sent", "what"),
    [(b"POST ", "headers"), (post(CHAT, chat())[:-3], "body")],
    ids=["headers", "body"],
)
def test_a_caller_that_stops_half_way_gets_408(sent: bytes, what: str) -> None:
    timeouts = TimeoutSettings(header_s=0.1, body_s=0.1)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        reply = caller.send(sent).reply()
        assert reply.status == 408
        assert what in reply.error["message"]
        assert caller.closed()


def test_an_idle_connection_is_closed_after_its_keep_alive_time() -> None:
    timeouts = TimeoutSettings(keep_alive_s=0.1)
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=timeouts) as g, Caller(g.port) as caller:
        assert caller.chat().reply().status == 200
        assert caller.closed()
