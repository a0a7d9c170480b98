"""A caller that leaves, in every phase of a request: the engine is told, and nothing stays behind."""

from __future__ import annotations

import json
import socket

import psutil
import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.requests.routes import ROUTES
from tests.support.deaf import deaf
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

TOLD_S = 0.1
GET = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
FIELDS = {"messages": [], "prompt": "hi", "input": "hi", "inputs": "hi", "query": "hi"}
OPENAI_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def nothing_left(g: InProcess) -> None:
    g.until(
        lambda r: (r.gateway.in_flight, r.gateway.scheduler.queued, r.gateway.connections) == (0, 0, 0),
    )


def body_of(route: str, **more: object) -> bytes:
    needed = ROUTES[route].any_of[:1]
    return json.dumps({"model": "m", **{name: FIELDS[name] for name in needed}, **more}).encode()


@pytest.mark.parametrize("route", OPENAI_ROUTES)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
def test_the_engine_is_told_at_once_on_every_route(route: str, streamed: bool, way: str) -> None:
    answer: Answer = raw(sse("one"), then="silent") if streamed else hang
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.send(post(route, body_of(route, stream=streamed)))
        engine.arrived.get(timeout=5)
        if streamed:
            assert caller.head().status == 200
        if way == "half-close":
            caller.sock.shutdown(socket.SHUT_WR)  # a FIN behind a whole request means gone
        elif way == "reset":
            caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            caller.sock.close()
        else:
            caller.sock.close()
        engine.left.get(timeout=TOLD_S)
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == 1


def test_one_that_leaves_before_its_body_is_whole_reaches_no_engine() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            caller.send(post(CHAT, chat())[:-5])
            g.until(lambda r: r.gateway.connections == 1)
        nothing_left(g)
        assert engine.requests == []


def attempts(port: int) -> int:
    """Connections to ``port`` that this process is making."""
    connections = psutil.Process().net_connections("tcp")
    return sum(c.status == psutil.CONN_SYN_SENT and c.raddr[1] == port for c in connections)


def test_one_that_leaves_while_the_gateway_connects_gives_its_slot_back() -> None:
    with RogueEngine(ok()) as engine, gateway(engine, health=HealthSettings(interval_s=60)) as g:
        engine.refuse()
        with deaf(engine.port):
            before = attempts(engine.port)
            with Caller(g.port) as caller:
                caller.chat()
                g.until(lambda _: attempts(engine.port) == before + 1)
            nothing_left(g)
            g.until(lambda _: attempts(engine.port) == before)
            assert g.ask(lambda r: r.gateway.stats.cancelled) == 1


def test_one_that_leaves_while_its_stream_is_held_up_is_told_to_the_engine() -> None:
    """It reads nothing, so reading from the engine is paused; then it goes."""

    def flood(wire: Wire) -> None:
        wire.send(sse())
        wire.sock.settimeout(0.5)
        try:
            while True:
                wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        except TimeoutError:
            wire.engine.arrived.put(wire)
        wire.sock.settimeout(20)
        wire.wait_for_peer_to_leave()

    with RogueEngine(flood) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            caller.chat(stream=True)
            engine.arrived.get(timeout=5)
            engine.arrived.get(timeout=20)  # stuck
        engine.left.get(timeout=5)
        nothing_left(g)


@pytest.mark.parametrize("behind", [post(CHAT, chat()), GET], ids=["relayed", "not relayed"])
def test_one_that_leaves_with_requests_pipelined_behind_takes_them_along(behind: bytes) -> None:
    with RogueEngine(hang) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            caller.send(post(CHAT, chat()) + behind * 2)
            engine.arrived.get(timeout=5)
        engine.left.get(timeout=5)
        nothing_left(g)
        assert len(engine.requests) == 1


def test_one_that_leaves_while_an_error_is_looked_at_gives_its_slot_back() -> None:
    half = raw(b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\n{", then="silent")
    with RogueEngine(half) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", engine="vllm")
        with gateway(instance) as g:
            with Caller(g.port) as caller:
                caller.chat()
                engine.arrived.get(timeout=5)
            engine.left.get(timeout=5)
            nothing_left(g)


def test_a_place_in_the_queue_is_given_to_the_next_when_its_owner_leaves() -> None:
    def held(wire: Wire) -> None:
        wire.engine.go.wait(20)
        ok(wire.body)(wire)

    with RogueEngine(held) as engine:
        instance = InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)
        with gateway(instance) as g, Caller(g.port) as first, Caller(g.port) as third:
            first.chat()
            engine.arrived.get(timeout=5)
            with Caller(g.port) as second:
                second.chat(text="second")
                g.until(lambda r: r.gateway.scheduler.queued == 1)
                third.chat(text="third")
                g.until(lambda r: r.gateway.scheduler.queued == 2)
            g.until(lambda r: r.gateway.scheduler.queued == 1)
            engine.go.set()
            assert first.reply().status == 200
            assert b"third" in third.reply().body
            assert not any(b"second" in request for request in engine.requests)
