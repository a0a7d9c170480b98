"""A caller's connection by itself: what it keeps while idle, and how it answers outside of any exchange."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.config.settings import TimeoutSettings
from sage_inference.gateway.caller_connection import CallerConnection
from sage_inference.server import RunningGateway
from sage_inference.wire.request_guard import NOT_STARTED
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, chat, post


@pytest.fixture(scope="module")
def g() -> Iterator[InProcess]:
    with RogueEngine(ok()) as engine, gateway(engine, timeouts=TimeoutSettings(header_s=0.4)) as running:
        yield running


def only_connection(running: RunningGateway) -> CallerConnection:
    (connection,) = running.server.server_state.connections
    assert isinstance(connection, CallerConnection)
    return connection


def alone(g: InProcess) -> None:
    g.until(lambda running: not running.server.server_state.connections)


def test_a_connection_has_a_parser_only_if_a_head_was_parsed(g: InProcess) -> None:
    for known in (False, True):
        alone(g)
        with Caller(g.port) as caller:
            assert caller.send(post(CHAT, chat(), "x-parser: 1")).reply().status == 200
            assert g.ask(lambda running: only_connection(running).framing is NOT_STARTED) is known


def test_a_closed_connection_is_freed_without_the_garbage_collector(g: InProcess) -> None:
    alone(g)
    with Caller(g.port) as caller:
        caller.send(post(CHAT, chat(), "x-parsed-once: 1"))
        assert caller.reply().status == 200
        freed: Any = g.ask(lambda running: weakref.ref(only_connection(running)))
        gc.disable()
    try:
        g.until(lambda _: freed() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("path", "form"), [(CHAT, '{"error":{'), ("/v1/messages", '{"type":"error","error":{')]
)
def test_a_refusal_has_the_form_of_its_path_and_the_id_of_its_request(
    g: InProcess, path: str, form: str
) -> None:
    with Caller(g.port) as caller:
        reply = caller.send(post(path, chat(), "x-request-id: mine", "expect: much")).reply()
        assert reply.status == 417
        assert reply.body.decode().startswith(form)
        assert reply.headers["x-request-id"] == "mine"
        assert reply.headers["connection"] == "close"
        assert caller.closed()


def test_a_head_that_stops_is_408_and_its_id_a_new_one(g: InProcess) -> None:
    with Caller(g.port) as caller:
        reply = caller.send(b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\nx-req").reply()
        assert reply.status == 408
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert reply.headers["x-request-id"] == reply.headers["request-id"] != ""
        assert caller.closed()
