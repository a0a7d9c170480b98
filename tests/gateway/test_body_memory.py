"""The bodies of all requests together are bounded, counted exactly, and their memory goes back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from sage_inference.config.settings import LimitSettings, TimeoutSettings
from tests.support.inprocess import ADMIN, InProcess
from tests.support.inprocess import gateway as before
from tests.support.memory import check_memory_goes_back
from tests.support.rogue import RogueEngine, Wire, ok
from tests.support.wire import CHAT, Caller, chat, post

LIMIT = 1_000_000
LARGE = chat(text="x" * 600_000)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"


def gateway(engine: RogueEngine, **timeouts: float) -> AbstractContextManager[InProcess]:
    limits = LimitSettings(bodies_bytes=LIMIT, body_bytes=700_000)
    return before(engine, limits=limits, timeouts=TimeoutSettings(**timeouts))


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def held(g: InProcess) -> int:
    return g.ask(lambda running: running.gateway.bodies.held)


def begin(caller: Caller, *, coded: bool = False, known: bool = False) -> None:
    """All of a large body but its end."""
    if known:
        caller.chat().reply()
    if coded:
        chunks = b"".join(b"2000\r\n%b\r\n" % LARGE[at : at + 0x2000] for at in range(0, 0x2000 * 72, 0x2000))
        caller.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    else:
        caller.send(post(CHAT, LARGE)[:-1])


@pytest.mark.parametrize(
    "how", [{}, {"coded": True}, {"known": True}], ids=["length", "chunks", "known head"]
)
def test_a_body_beyond_the_sum_is_503_and_names_the_limit(how: dict[str, bool]) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        with Caller(g.port) as first, Caller(g.port) as second, Caller(g.port) as small:
            begin(first, **how)
            g.until(lambda r: r.gateway.bodies.held > 500_000)
            begin(second, **how)
            reply = second.reply()
            assert (reply.status, reply.error["code"]) == (503, "bodies_full")
            assert "limits.bodies_bytes" in reply.error["message"]
            assert int(reply.headers["retry-after"]) >= 1
            assert small.chat().reply().status == 200
            lines = "".join(f"{name}: {value}\r\n" for name, value in ADMIN.items()).encode()
            small.send(b"GET /admin/status HTTP/1.1\r\nhost: 127.0.0.1\r\n" + lines + b"\r\n")
            assert small.reply().status == 200
        g.until(lambda r: r.gateway.bodies.held == 0)


def _ends(caller: Caller) -> None:
    caller.send(LARGE[-1:]).reply()


def _leaves(caller: Caller) -> None:
    caller.sock.close()


def _too_long(caller: Caller) -> None:
    caller.reply()


def _garbage(caller: Caller) -> None:
    caller.send(b"\0").reply()


@pytest.mark.parametrize(
    "end", [_ends, _leaves, _too_long, _garbage], ids=["answered", "left", "timed out", "refused"]
)
def test_what_was_counted_is_given_back(end: Callable[[Caller], None]) -> None:
    with RogueEngine(ok()) as engine, gateway(engine, body_s=0.5) as g, Caller(g.port) as caller:
        begin(caller)
        g.until(lambda r: r.gateway.bodies.held > 500_000)
        end(caller)
        g.until(lambda r: r.gateway.bodies.held == 0)


def test_a_body_counts_until_its_answer_begins() -> None:
    with RogueEngine(hang) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(post(CHAT, LARGE))
        engine.arrived.get(timeout=5)
        assert held(g) >= len(LARGE) - 300_000
    with RogueEngine(hang) as engine, gateway(engine, first_byte_s=0.3) as g, Caller(g.port) as caller:
        caller.send(post(CHAT, LARGE))
        assert caller.reply().status == 504
        g.until(lambda r: r.gateway.bodies.held == 0)


def test_memory_goes_back_after_large_bodies() -> None:
    check_memory_goes_back(post(CHAT, chat(text="x" * 24_000_000)))
