"""Callers that connect with TLS: the connection behaves in every way as one without."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.settings import LimitSettings, ServerSettings, TimeoutSettings
from sage_inference.server import new_event_loop
from tests.support import inprocess
from tests.support.buffers import more_than_the_kernel_buffers
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.tls import Certificate, TlsCaller, self_signed, trusting
from tests.support.wire import CHAT, Caller, chat, post

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
ENDED = (ConnectionError, ssl.SSLError)  # and no time that is up
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def trust(own: Certificate) -> ssl.SSLContext:
    return trusting(own)


@contextmanager
def serving(*engines: Any, own: Certificate, **settings: Any) -> Iterator[InProcess]:
    server = ServerSettings(tls_cert=str(own.chain), tls_key=str(own.key))
    with gateway(*engines, server=server, **settings) as g:
        yield g


@pytest.fixture(scope="module")
def g(own: Certificate) -> Iterator[InProcess]:
    with RogueEngine(ok()) as engine, serving(engine, own=own) as running:
        yield running


def connections(g: InProcess, count: int) -> None:
    g.until(lambda r: r.gateway.connections == count)


# Requests and answers


@pytest.mark.parametrize("loop", [new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_requests_of_every_shape_are_answered(
    loop: Callable[[], Any], own: Certificate, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "new_event_loop", loop)
    long = json.dumps({"model": "m", "messages": [], "pad": "x" * 3_000_000}).encode()
    answer = b"y" * 2_000_000
    with RogueEngine(ok(answer)) as engine, serving(engine, own=own) as g, TlsCaller(g.port, trust) as caller:
        for body in (chat(), long, chat()):  # one record, two hundred, one again
            reply = caller.send(post(CHAT, body)).reply()
            assert (reply.status, hashlib.sha256(reply.body).digest()) == (
                200,
                hashlib.sha256(answer).digest(),
            )
            assert engine.requests[-1].endswith(body)
        for byte in post(CHAT, chat()):  # a record each
            caller.send(bytes([byte]))
        assert caller.reply().body == answer
        caller.send(MODELS + post(CHAT, chat()) + HEALTH + post(CHAT, chat()))  # pipelined, in one record
        assert [caller.reply().status for _ in range(4)] == [200] * 4
        assert [len(caller.send(post(CHAT, chat())).reply().body) for _ in range(3)] == [len(answer)] * 3


def test_a_stream_arrives_piece_by_piece_and_another_caller_is_served_meanwhile(
    own: Certificate, trust: ssl.SSLContext
) -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse("one"))
        wire.engine.go.wait(10)
        wire.send(chunk(b"data: two\n\n") + b"0\r\n\r\n")

    with RogueEngine(answer) as engine, serving(engine, own=own) as g:
        with TlsCaller(g.port, trust) as caller, TlsCaller(g.port, trust) as other:
            assert caller.chat(stream=True).head().status == 200
            assert caller.chunk() == b"data: one\n\n"
            assert other.send(HEALTH).reply().status == 200
            engine.go.set()
            assert (caller.chunk(), caller.chunk()) == (b"data: two\n\n", b"")
            assert caller.send(HEALTH).reply().status == 200


def test_the_application_knows_the_scheme(g: InProcess, trust: ssl.SSLContext) -> None:
    with TlsCaller(g.port, trust) as caller:
        status = caller.send(b"GET /admin/status HTTP/1.1\r\nhost: localhost\r\n" + admin() + b"\r\n").reply()
    assert json.loads(status.body)["address"] == "https://127.0.0.1:8000"


def admin() -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in ADMIN.items())


# Backpressure, and callers that leave


def test_a_stream_that_nobody_reads_is_held_up_and_arrives_whole_later(
    own: Certificate, trust: ssl.SSLContext
) -> None:
    piece = bytes(range(256)) * 1024
    most = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text().split()[2])  # the kernel's, to send
    pieces = 2 * (most + (4 << 20)) // len(piece)

    def answer(wire: Wire) -> None:
        wire.send(sse())
        for _ in range(pieces):
            wire.send(chunk(piece))
        wire.send(b"0\r\n\r\n")

    with RogueEngine(answer) as engine, serving(engine, own=own) as g:
        with TlsCaller(g.port, trust) as caller:
            caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            assert caller.chat(stream=True).head().status == 200
            g.until(lambda r: all(one.flow.write_paused for one in r.server.server_state.connections))  # type: ignore[union-attr]
            got = hashlib.sha256()
            while data := caller.chunk():
                got.update(data)
            assert got.digest() == hashlib.sha256(piece * pieces).digest()
            assert caller.chat(stream=True).head().status == 200


def test_a_caller_that_sends_without_end_is_read_no_further_while_its_request_waits(
    own: Certificate, trust: ssl.SSLContext
) -> None:
    offered = more_than_the_kernel_buffers()
    with RogueEngine(lambda w: w.wait_for_peer_to_leave()) as engine, serving(engine, own=own) as g:
        with TlsCaller(g.port, trust) as caller:
            caller.chat()
            engine.arrived.get(timeout=5)
            caller.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                caller.sock.sendall(bytes(offered))
            assert g.ask(lambda r: all(one.flow.read_paused for one in r.server.server_state.connections))  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["close_notify", "end", "reset"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_caller_that_leaves_is_noticed_at_once(
    way: str, streamed: bool, own: Certificate, trust: ssl.SSLContext
) -> None:
    answer = raw(sse("one"), then="silent") if streamed else lambda wire: wire.wait_for_peer_to_leave()
    with RogueEngine(answer) as engine, serving(engine, own=own) as g, TlsCaller(g.port, trust) as caller:
        caller.chat(stream=streamed)
        engine.arrived.get(timeout=5)
        if streamed:
            assert caller.head().status == 200
        if way == "close_notify":
            threading.Thread(target=_unwrap, args=(caller,), daemon=True).start()
        elif way == "end":
            caller.sock.shutdown(socket.SHUT_WR)
        else:
            caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            caller.sock.close()
        engine.left.get(timeout=2)
        connections(g, 0)
        assert g.ask(lambda r: (r.gateway.in_flight, r.gateway.stats.cancelled)) == (0, 1)


def _unwrap(caller: TlsCaller) -> None:
    with suppress(OSError):  # the test ends meanwhile
        caller.tls.unwrap()


def test_only_a_complete_answer_ends_with_close_notify(own: Certificate, trust: ssl.SSLContext) -> None:
    whole = raw("HTTP/1.1 200 OK\r\n\r\nall", then="close")
    cut = raw(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n3\r\nall\r\n",
        then="close",
    )
    old = post(CHAT, chat()).replace(b"HTTP/1.1", b"HTTP/1.0")
    with RogueEngine(whole, cut) as engine, serving(engine, own=own) as g:
        with TlsCaller(g.port, trust) as caller:
            assert caller.send(old).reply().body == b"all"
        with TlsCaller(g.port, trust) as caller:
            caller.send(old)
            with pytest.raises(
                (ssl.SSLEOFError, ConnectionResetError)
            ):  # a reset may overtake the bytes before it
                list(iter(lambda: caller.tls.recv(100), b""))


def test_a_closed_connection_is_freed_without_the_garbage_collector(
    g: InProcess, trust: ssl.SSLContext
) -> None:
    connections(g, 0)
    with TlsCaller(g.port, trust) as caller:
        assert caller.send(post(CHAT, chat(), "x-once: 1")).reply().status == 200
        freed: Any = g.ask(lambda r: [weakref.ref(one) for one in r.server.server_state.connections])
        gc.disable()
    try:
        g.until(lambda _: freed[0]() is None)
    finally:
        gc.enable()


# The handshake


def hello(context: ssl.SSLContext) -> bytes:
    """A caller's first message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("how", ["silent", "half a hello", "drip"])
def test_a_caller_that_never_shakes_hands_is_ended_as_a_silent_one(
    how: str, own: Certificate, trust: ssl.SSLContext
) -> None:
    timeouts = TimeoutSettings(header_s=0.3)
    with (
        RogueEngine(ok()) as engine,
        serving(engine, own=own, timeouts=timeouts) as g,
        Caller(g.port) as caller,
    ):
        connections(g, 1)
        began = time.monotonic()
        sent = hello(trust)
        if how != "silent":
            caller.send(sent[:100])
        if how == "drip":
            threading.Thread(target=_drip, args=(caller, sent[100:-1]), daemon=True).start()
        connections(g, 0)
        assert time.monotonic() - began < 3
        with TlsCaller(g.port, trust) as other:
            assert other.send(HEALTH).reply().status == 200


def _drip(caller: Caller, data: bytes) -> None:
    try:
        for byte in data:
            caller.sock.send(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


def test_a_connection_without_a_handshake_counts_against_the_limit(
    own: Certificate, trust: ssl.SSLContext
) -> None:
    with RogueEngine(ok()) as engine, serving(engine, own=own, limits=LimitSettings(connections=1)) as g:
        with Caller(g.port), TlsCaller(g.port, trust) as beyond:
            connections(g, 2)
            reply = beyond.send(post(CHAT, chat())).reply()
            assert (reply.status, "limits.connections" in reply.error["message"]) == (503, True)
            with TlsCaller(g.port, trust) as operator:
                assert operator.send(HEALTH).reply().status == 200
            extra = [Caller(g.port) for _ in range(12)]  # more than are let in beyond the limit
            g.until(lambda r: r.gateway.connections <= 7)
            for one in extra:
                one.sock.close()


GARBAGE = {
    "GET": (MODELS, 400),
    "POST": (post(CHAT, chat()), 400),
    "DELETE": (b"DELETE / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "bytes": (b"\x00" * 64, None),
    "a record that is too long": (b"\x16\x03\x01\xff\xff" + b"x" * 64, None),
    "an alert": (b"\x15\x03\x01\x00\x02\x02\x28", None),
    "data before the handshake": (b"\x17\x03\x03\x00\x05hello", None),
}


@pytest.mark.parametrize("how", GARBAGE)
def test_what_is_no_handshake_is_closed_with_one_debug_line(
    how: str, g: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    data, status = GARBAGE[how]
    caplog.set_level(logging.DEBUG)
    with Caller(g.port) as caller:
        caller.send(data)
        if status is not None:
            reply = caller.reply()
            assert (reply.status, reply.error["code"]) == (status, "https_required")
            assert "https://" in reply.error["message"]
        else:
            assert not caller.rest().startswith(b"HTTP")
        connections(g, 0)
    lines = [record for record in caplog.records if record.name.startswith(("sage", "asyncio", "uvicorn"))]
    assert [(line.levelname, line.exc_info) for line in lines] == [("DEBUG", None)]


def test_a_caller_that_does_not_trust_the_certificate_leaves_no_traceback(
    g: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsCaller(g.port, ssl.create_default_context())
    connections(g, 0)
    assert [r.levelname for r in caplog.records if r.name.startswith(("sage", "asyncio"))] == ["DEBUG"]
    assert not [r for r in caplog.records if r.exc_info]


def test_a_damaged_record_ends_its_connection_alone(g: InProcess, trust: ssl.SSLContext) -> None:
    with TlsCaller(g.port, trust) as caller, TlsCaller(g.port, trust) as other:
        assert caller.send(HEALTH).reply().status == 200
        os.write(caller.tls.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(ssl.SSLError):
            caller.tls.recv(1)
        assert other.send(HEALTH).reply().status == 200


def test_small_records_are_read_until_they_are_too_many(g: InProcess, trust: ssl.SSLContext) -> None:
    """Some thousand pieces of a byte each come of a careless program, twenty thousand of one that means harm."""
    held, go = threading.Event(), threading.Event()
    with TlsCaller(g.port, trust) as caller:
        caller.send_singly(post(CHAT, chat(pad="x" * 4000)))
        assert caller.reply().status == 200
        g.hold(held, go)  # so that they arrive together
        assert held.wait(10)
        caller.send_singly(post(CHAT, chat(pad="x" * 20_000)))
        go.set()
        with pytest.raises(ENDED):
            caller.tls.recv(1)
    connections(g, 0)


def test_updates_of_the_key_are_read_until_they_are_too_many(
    g: InProcess, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Each costs as much as a request, and OpenSSL reads as many as there are in one call."""
    with TlsCaller(g.port, trust) as caller, TlsCaller(g.port, trust) as other:
        update_key(caller, 1000)
        assert caller.send(HEALTH).reply().status == 200
        for _ in range(3):
            update_key(caller, 500)
            assert caller.send(post(CHAT, chat(pad="x" * 300_000))).reply().status == 200
        with suppress(OSError):
            update_key(caller, 20_000)
        with pytest.raises(ENDED):
            caller.tls.recv(1)
        assert other.send(HEALTH).reply().status == 200
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def update_key(caller: TlsCaller, times: int) -> None:
    """Python has no call for that, but OpenSSL has."""
    maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    libraries = {line.split()[-1] for line in maps.splitlines() if "/libssl.so.3" in line}
    if len(libraries) != 1 or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        pytest.skip("the place of OpenSSL's connection in Python's object is known for CPython 3.11 to 3.13")
    openssl = ctypes.CDLL(libraries.pop())
    inner = caller.tls._sslobj  # type: ignore[attr-defined]
    # After the object's head of two words come the socket and the connection.
    connection = ctypes.cast(id(inner) + 3 * ctypes.sizeof(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p))[
        0
    ]
    for _ in range(times):
        assert openssl.SSL_key_update(ctypes.c_void_p(connection), 0) == 1
        if openssl.SSL_do_handshake(ctypes.c_void_p(connection)) != 1:
            raise ConnectionError


@pytest.mark.parametrize("group", ["ffdhe8192", "ffdhe2048", "P-521", "X448"])
def test_a_caller_cannot_choose_a_costly_group(group: str, g: InProcess) -> None:
    """Of the groups that OpenSSL takes by default, the largest would hold the loop up for 0.14 s."""
    asked = ["openssl", "s_client", "-connect", f"127.0.0.1:{g.port}", "-groups", group]
    done = subprocess.run(asked, input="", capture_output=True, text=True, timeout=20)
    assert done.returncode
    assert "handshake failure" in done.stderr
    asked[-1] += ":P-256"
    done = subprocess.run(asked, input="", capture_output=True, text=True, timeout=20)
    assert "TLSv1.3" in done.stdout


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_protocol_and_resumption(version: ssl.TLSVersion, g: InProcess, own: Certificate) -> None:
    context = trusting(own)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with TlsCaller(g.port, context) as first:
        assert first.send(HEALTH).reply().status == 200
        assert (first.tls.version(), first.tls.selected_alpn_protocol()) == (
            version.name.replace("_", ".", 1).replace("_", "."),
            "http/1.1",
        )
        session = first.tls.session
    with TlsCaller(g.port, context, session) as second:
        assert second.send(HEALTH).reply().status == 200
        assert second.tls.session_reused


def test_older_versions_are_refused(g: InProcess) -> None:
    asked = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{g.port}",
        "-tls1_1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]
    done = subprocess.run(asked, input="", capture_output=True, text=True, timeout=20)
    assert done.returncode
    assert "protocol version" in done.stderr


def test_openssl_verifies_the_chain_and_gets_an_answer(g: InProcess, own: Certificate) -> None:
    asked = ["openssl", "s_client", "-connect", f"127.0.0.1:{g.port}", "-CAfile", str(own.chain), "-quiet"]
    asked += ["-verify_return_error", "-verify_ip", "127.0.0.1"]
    request = HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    done = subprocess.run([*asked, "-ign_eof"], input=request, capture_output=True, timeout=20)
    assert done.stdout.startswith(b"HTTP/1.1 200 OK"), done.stderr


# The end of the gateway


def test_a_stop_lets_a_running_request_end(own: Certificate, trust: ssl.SSLContext) -> None:
    def answer(wire: Wire) -> None:
        wire.engine.go.wait(10)
        ok(b"late")(wire)

    with RogueEngine(answer) as engine, serving(engine, own=own) as g, TlsCaller(g.port, trust) as caller:
        caller.chat()
        engine.arrived.get(timeout=5)
        stopping = threading.Thread(target=g.stop, kwargs={"at_once": False})
        stopping.start()
        g.until(lambda r: r.gateway.draining)
        engine.go.set()
        assert caller.reply().body == b"late"
        stopping.join(10)
        assert not stopping.is_alive()
