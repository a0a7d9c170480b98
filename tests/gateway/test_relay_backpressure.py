"""Who does not read holds up who writes: memory stays bounded, and no byte is lost."""

from __future__ import annotations

import hashlib

import psutil

from tests.support.buffers import more_than_the_kernel_buffers
from tests.support.gateway import running_gateway
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import CHAT, Caller, chat, post

PIECE = 65536
OFFERED = more_than_the_kernel_buffers()
KERNEL = 16 << 20  # what the sockets' own buffers may take on loopback


def piece(number: int) -> bytes:
    return number.to_bytes(8, "big") * (PIECE // 8)


def flood(wire: Wire) -> None:
    """Offers far more than anything may hold, and reports once it gets no further."""
    wire.send(sse())
    wire.sock.settimeout(1.0)
    try:
        for number in range(OFFERED // PIECE):
            wire.send(chunk(piece(number)))
    except TimeoutError:
        wire.engine.left.put(wire)


def test_streams_that_nobody_reads_cost_little_memory() -> None:
    streams = 12
    with RogueEngine(flood) as engine, running_gateway(engine.url) as g:
        process = psutil.Process(g.process.pid)
        before = process.memory_info().rss
        callers = [Caller(g.port).chat(stream=True) for _ in range(streams)]
        for _ in callers:
            engine.left.get(timeout=30)
        grown = process.memory_info().rss - before
        for caller in callers:
            caller.sock.close()
        assert grown < streams * (1 << 20)


def test_a_stream_that_was_held_up_arrives_whole_once_it_is_read() -> None:
    pieces = more_than_the_kernel_buffers() // PIECE

    def answer(wire: Wire) -> None:
        wire.send(sse())
        wire.sock.settimeout(20)
        for number in range(pieces):
            wire.send(chunk(piece(number)))
        wire.engine.go.set()
        wire.send(b"0\r\n\r\n")

    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        assert caller.head().status == 200
        assert not engine.go.wait(1.0)  # stuck: nobody reads
        got, expected = hashlib.sha256(), hashlib.sha256()
        for number in range(pieces):
            expected.update(piece(number))
        while data := caller.chunk():
            got.update(data)
        assert got.digest() == expected.digest()
        assert caller.chat(stream=True).head().status == 200  # and the connection serves on


def send_until_stuck(caller: Caller, data: bytes) -> int:
    """How many bytes the gateway takes before it takes no more."""
    caller.sock.settimeout(1.0)
    sent = 0
    try:
        while sent < OFFERED:
            sent += caller.sock.send(data)
    except TimeoutError:
        pass
    return sent


def test_a_caller_that_pipelines_without_end_is_not_read_from() -> None:
    def hang(wire: Wire) -> None:
        wire.engine.go.wait(30)
        ok(wire.body)(wire)

    with RogueEngine(hang) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat()
        engine.arrived.get(timeout=5)
        assert send_until_stuck(caller, post(CHAT, chat(text="x" * 5000)) * 20) < KERNEL
        assert len(engine.requests) == 1
        engine.go.set()


def test_a_large_pipelined_body_is_not_read_before_its_turn() -> None:
    def hang(wire: Wire) -> None:
        wire.engine.go.wait(30)
        ok(str(len(wire.body)))(wire)

    body = chat(text="x" * (40 << 20))
    with RogueEngine(hang) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat()
        engine.arrived.get(timeout=5)
        request = post(CHAT, body)
        caller.sock.settimeout(1.0)
        sent = 0
        try:
            while sent < len(request):
                sent += caller.sock.send(request[sent : sent + PIECE])
        except TimeoutError:
            pass
        assert sent < KERNEL
        engine.go.set()
        caller.sock.settimeout(20)
        assert caller.reply().status == 200
        assert caller.send(request[sent:]).reply().body == str(len(body)).encode()
