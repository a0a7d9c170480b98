"""Every way in which an answer can end is told once, and by its name."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from sage_inference.bench.client import Client, ServerAddress
from sage_inference.bench.exchange import Kind, TimedExchange
from tests.bench_tool.driving import exchanged, in_loop, job
from tests.support.gateway import free_port
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw, sse

GOOD = ok('{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}')
TEXT = '{"choices":[{"index":0,"delta":{"content":"x"}}]}'
STREAM = raw(sse(TEXT, TEXT, "[DONE]") + chunk(b""))
WHOLE = b'{"choices":[]}'


def one(answer: Answer, kind: Kind = Kind.CHAT, *, timeout_s: float = 20.0) -> TimedExchange:
    with RogueEngine(answer) as engine:
        [exchange], _ = exchanged(engine.port, [kind], timeout_s=timeout_s)
    return exchange


@pytest.mark.parametrize(
    ("answer", "kind", "error"),
    [
        (GOOD, Kind.CHAT, None),
        (STREAM, Kind.STREAM, None),
        (ok('{"data":[{"embedding":[1]}]}'), Kind.EMBEDDINGS, None),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE, then="close"), Kind.CHAT, None),
        (
            raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + WHOLE),
            Kind.CHAT,
            None,
        ),
        (ok('{"error":{"message":"busy"}}', status="503 No"), Kind.CHAT, "http_503"),
        (ok(b"", status="204 None"), Kind.CHAT, "http_204"),
        (ok("{}"), Kind.CHAT, "malformed"),
        (raw(sse(TEXT, "[DONE]"), then="close"), Kind.STREAM, "closed"),
        (raw(sse(TEXT) + chunk(b"")), Kind.STREAM, "incomplete"),
        (raw(sse('{"error":{"message":"died"}}') + chunk(b"")), Kind.STREAM, "stream_error"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + WHOLE, then="close"), Kind.CHAT, "closed"),
        (raw(b"", then="close"), Kind.CHAT, "closed"),
        (raw(b"", then="reset"), Kind.CHAT, "reset"),
        (raw(b"SSH-2.0-OpenSSH\r\n"), Kind.CHAT, "garbage"),
        (raw(sse(TEXT) + b"zz\r\n"), Kind.STREAM, "garbage"),
    ],
    ids=[
        "plain",
        "stream",
        "embeddings",
        "body to the end of the connection",
        "100 before it",
        "503",
        "204",
        "other json",
        "stream cut after its last event",
        "stream without an end",
        "error event",
        "body cut",
        "closed without an answer",
        "reset without an answer",
        "not http",
        "bad chunk size",
    ],
)
def test_how_an_answer_ends(answer: Answer, kind: Kind, error: str | None) -> None:
    exchange = one(answer, kind)
    assert exchange.error == error
    assert exchange.ended >= (exchange.sent or 0) > 0


def byte_by_byte(wire: Wire) -> None:
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + WHOLE:
        wire.send(bytes([byte]))


def test_an_answer_may_come_byte_by_byte() -> None:
    assert one(byte_by_byte).error is None


def test_silence_is_a_timeout_and_the_server_sees_us_leave() -> None:
    with RogueEngine(raw(b"HTTP/1.1 200 OK\r\n", then="silent")) as engine:
        [exchange], _ = exchanged(engine.port, [Kind.CHAT], timeout_s=0.2)
        engine.left.get(timeout=10)
    assert exchange.error == "timeout"


def test_nobody_listening_is_refused_and_nothing_was_sent() -> None:
    [exchange], _ = exchanged(free_port(), [Kind.CHAT])
    assert (exchange.error, exchange.sent) == ("refused", None)


def test_a_clean_connection_is_used_again() -> None:
    with RogueEngine(GOOD, STREAM, GOOD) as engine:
        found, client = exchanged(engine.port, [Kind.CHAT, Kind.STREAM, Kind.CHAT])
        assert engine.connections == 1
    assert [exchange.error for exchange in found] == [None, None, None]
    assert client.connections == 1


@pytest.mark.parametrize(
    "first",
    [
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + WHOLE + b"HTTP/1.1 200 OK\r\n"),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + WHOLE + b"surplus"),
        ok(WHOLE, "connection: close"),
        raw(b"HTTP/1.0 200 OK\r\ncontent-length: 14\r\n\r\n" + WHOLE),
    ],
    ids=["a second answer", "surplus", "asked to close", "http/1.0"],
)
def test_a_connection_that_is_not_clean_is_not_used_again(first: Answer) -> None:
    with RogueEngine(first, GOOD) as engine:
        found, client = exchanged(engine.port, [Kind.CHAT, Kind.CHAT])
        assert engine.connections == 2
    assert [exchange.error for exchange in found] == [None, None]
    assert client.connections == 2


def test_beyond_the_limit_exchanges_wait_their_turn() -> None:
    async def work() -> tuple[list[str | None], int, int]:
        ended: asyncio.Queue[TimedExchange] = asyncio.Queue()
        client = Client(
            ServerAddress("127.0.0.1", engine.port), limit=2, timeout_s=20, on_end=ended.put_nowait
        )
        for _ in range(7):
            client.send(TimedExchange(job(), time.monotonic()))
        found = [(await ended.get()).error for _ in range(7)]
        client.close()
        return found, client.waited, client.connections

    with RogueEngine(GOOD) as engine:
        assert in_loop(work) == ([None] * 7, 5, 2)
        assert len(engine.requests) == 7


def test_a_waiting_exchange_gets_the_place_of_a_connection_that_was_lost() -> None:
    async def work() -> list[str | None]:
        ended: asyncio.Queue[TimedExchange] = asyncio.Queue()
        client = Client(
            ServerAddress("127.0.0.1", engine.port), limit=1, timeout_s=20, on_end=ended.put_nowait
        )
        for _ in range(3):
            client.send(TimedExchange(job(), time.monotonic()))
        found = [(await ended.get()).error for _ in range(3)]
        client.close()
        return found

    with RogueEngine(raw(b"", then="reset"), ok(WHOLE, "connection: close"), GOOD) as engine:
        assert in_loop(work) == ["reset", None, None]


def test_a_waiting_exchange_gets_the_place_of_one_that_could_not_connect_in_time() -> None:
    async def work() -> list[str | None]:
        ended: asyncio.Queue[TimedExchange] = asyncio.Queue()
        client = Client(
            ServerAddress("127.0.0.1", sock.getsockname()[1]), limit=1, timeout_s=0.2, on_end=ended.put_nowait
        )
        for _ in range(2):
            client.send(TimedExchange(job(), time.monotonic()))
        found = [(await ended.get()).error for _ in range(2)]
        client.close()
        return found

    # Its queue holds one connection, and nobody accepts: the next is neither made nor refused.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as sock,
        socket.create_connection(sock.getsockname()),
    ):
        assert in_loop(work) == ["timeout", "timeout"]


def test_what_was_under_way_is_handed_back_by_close() -> None:
    async def work() -> tuple[set[TimedExchange], set[TimedExchange]]:
        client = Client(
            ServerAddress("127.0.0.1", engine.port),
            limit=1,
            timeout_s=20,
            on_end=lambda _: pytest.fail("it had ended"),
        )
        sent = {TimedExchange(job(), time.monotonic()) for _ in range(2)}
        for exchange in sent:
            client.send(exchange)
        await asyncio.to_thread(engine.arrived.get, timeout=10)
        return sent, set(client.close())

    with RogueEngine(raw(b"", then="silent")) as engine:
        sent, abandoned = in_loop(work)
        assert sent == abandoned
        engine.left.get(timeout=10)
