"""Callers that pipeline take nobody's time and no memory but their own share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.bench.pipelining.scene import flood, measured, scene
from tests.support.gateway import Gateway, running_gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import Caller

HOST = b"Host: localhost\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"


def post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(b"%b\r\n" % line for line in headers)
    return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n%b\r\n%b" % (path, HOST, len(body), lines, body)


def chunked(path: bytes, body: bytes, size: int) -> bytes:
    head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path, HOST)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHAT_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'
CHAT = post(b"/v1/chat/completions", CHAT_BODY % b"hi")
LONG_CHAT = post(b"/v1/chat/completions", CHAT_BODY % (b"hello " * 20_000))
KINDS = {
    "application": LIVE,
    "relayed": CHAT,
    "both": LIVE + CHAT,
    "long bodies": LONG_CHAT + LIVE,
    "in chunks": chunked(b"/v1/chat/completions", CHAT_BODY % b"hi", 1) + LIVE,
    "refused": post(b"/v1/chat/completions", b"{}"),
    "not found": b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "many headers": LIVE[:-2] + b"x-a: b\r\n" * 90 + b"\r\n",
    "upgrades": LIVE[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "expecting": post(b"/v1/chat/completions", CHAT_BODY % b"hi", b"Expect: 100-continue"),
    "blank lines": b"\r\n" * 100 + LIVE,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok()) as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(engine: RogueEngine) -> Iterator[Gateway]:
    with running_gateway(engine.url) as gateway:
        yield gateway


@pytest.mark.parametrize("request_bytes", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("size", [1 << 20, 700], ids=["at once", "in pieces"])
def test_every_pipelined_request_is_answered_in_its_order(
    gateway: Gateway, request_bytes: bytes, size: int
) -> None:
    count = max(2, min(20, 400_000 // len(request_bytes)))
    data = request_bytes * count + b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    with Caller(gateway.port) as caller:
        sending = threading.Thread(target=_send, args=(caller, data, size))
        sending.start()
        received = caller.rest()
        sending.join()
    assert received.count(b'"object":"list"') == 1
    answers = received.replace(b"HTTP/1.1 100 Continue", b"").count(b"HTTP/1.1 ")
    assert answers == count * (request_bytes.count(b" HTTP/1.1\r\n")) + 1


def _send(caller: Caller, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        caller.send(data[at : at + size])


def test_another_caller_hardly_notices_ten_connections_that_pipeline() -> None:
    """A short form of ``python -m tests.bench pipelining``, with room for a busy machine."""
    with scene() as gateway:
        alone = measured(gateway, 1.0)
        for kind in ("reading", "deaf"):
            with flood(gateway, kind):
                found = measured(gateway, 1.5)
            assert found.p50_ms < 5 * alone.p50_ms + 20
            assert found.most_mb < alone.begin_mb + 16, kind
