"""A stop, as in each restart, answers what callers had begun to send, and first requests that were on their way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sage_inference.gateway import caller_connection
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, chat, post

CHATS = post(CHAT, chat())
LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def g() -> Iterator[InProcess]:
    with RogueEngine(ok(b"answer")) as engine, gateway(engine) as running:
        yield running


def stop(g: InProcess) -> None:
    """Begin to stop. Returns when each connection knows."""
    g.ask(lambda r: r.stop())
    g.until(lambda r: not r.server.servers or not r.server.servers[0].is_serving())


def begins(connection: Any) -> bool:
    """Whether a part of a request has arrived."""
    return connection.running is not None or connection.framing.in_message


@pytest.mark.parametrize("request_", [CHATS, LIVE], ids=["relayed", "application"])
@pytest.mark.parametrize(
    ("kept", "begun"),
    # A kept connection may be closed between two requests, as by any server.
    [*(("new", begun) for begun in (0, 1, 20, -1)), *(("kept", begun) for begun in (1, 20, -1))],
)
def test_a_request_that_was_begun_or_on_its_way_is_answered_and_is_the_last(
    g: InProcess, request_: bytes, kept: str, begun: int
) -> None:
    with Caller(g.port) as caller:
        g.until(lambda r: r.gateway.connections == 1)
        if kept == "kept":
            assert caller.send(request_).reply().status == 200
        caller.send(request_[:begun] if begun else b"")
        if begun:
            g.until(lambda r: all(map(begins, r.server.server_state.connections)))
        stop(g)
        reply = caller.send(request_[begun:]).reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert caller.closed()


def test_many_that_have_just_connected_are_answered(g: InProcess) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(g.port)) for _ in range(50)]
        g.until(lambda r: r.gateway.connections == 50)
        stop(g)
        for caller in callers:
            caller.send(CHATS)
        assert {caller.reply().status for caller in callers} == {200}


def test_a_new_connection_that_stays_silent_holds_a_stop_up_for_a_moment_only(g: InProcess) -> None:
    with Caller(g.port) as silent, Caller(g.port) as idle:
        assert idle.send(LIVE).reply().status == 200
        g.until(lambda r: r.gateway.connections == 2)
        began = time.monotonic()
        g.ask(lambda r: r.stop())
        assert idle.closed()
        assert g.ask(lambda r: r.gateway.connections) == 1
        assert silent.closed()
        assert 0.4 < time.monotonic() - began < 10


def test_a_stop_at_once_waits_for_no_request(g: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_connection, "_FIRST_S", 60.0)
    with Caller(g.port) as silent:
        g.until(lambda r: r.gateway.connections == 1)
        began = time.monotonic()
        g.stop(at_once=True)
        assert time.monotonic() - began < 20
        assert silent.closed()
