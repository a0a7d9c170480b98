"""Answers of an engine that are malformed or ambiguous: never taken for good ones, their connection never used again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sage_inference.config.settings import InstanceSettings, SchedulingSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, chunk, ok, raw
from tests.support.wire import Caller

OK = b"HTTP/1.1 200 OK\r\n"
TWO = b"content-length: 2\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
EVIL = OK + b"content-length: 4\r\n\r\nevil"


def plain(*headers: bytes, line: bytes = OK, body: bytes = b"ok") -> bytes:
    return line + b"".join(headers) + b"\r\n" + body


def length(value: bytes) -> bytes:
    return plain(b"content-length: " + value + b"\r\n")


def coded(value: bytes) -> bytes:
    return plain(b"transfer-encoding: " + value + b"\r\n", body=CHUNKS)


def line(text: bytes) -> bytes:
    return plain(TWO, line=text + b"\r\n")


def header(text: bytes) -> bytes:
    return plain(TWO, text + b"\r\n")


NOT_HTTP = {
    "two lengths that differ": plain(TWO, b"content-length: 5\r\n"),
    "two lengths that agree": plain(TWO, TWO),
    "a list of lengths": length(b"2, 2"),
    "length with plus": length(b"+2"),
    "length with minus": length(b"-2"),
    "length in hex": length(b"0x2"),
    "length with underscore": length(b"0_2"),
    "letters in length": length(b"two"),
    "no digits in length": length(b""),
    "length beyond 64 bits": length(b"18446744073709551618"),
    "length, then chunked": plain(TWO, CHUNKED, body=CHUNKS),
    "chunked, then length": plain(CHUNKED, TWO, body=CHUNKS),
    "chunked twice": plain(CHUNKED, CHUNKED, body=CHUNKS),
    "gzip, chunked": coded(b"gzip, chunked"),
    "chunked, gzip": coded(b"chunked, gzip"),
    "identity": coded(b"identity"),
    "xchunked": coded(b"xchunked"),
    "no coding named": coded(b""),
    "space before the colon": plain(b"transfer-encoding : chunked\r\n", body=CHUNKS),
    "coding smuggled by a line feed": plain(TWO, b"x: y\ntransfer-encoding: chunked\r\n"),
    "header without a colon": header(b"novalue"),
    "header without a name": header(b": value"),
    "NUL in a name": header(b"x\0a: b"),
    "NUL in a value": header(b"x-a: b\0c"),
    "return in a value": header(b"x-a: b\rc"),
    "continued line": header(b"x-a: b\r\n c"),
    "line feeds alone": plain(TWO).replace(b"\r\n", b"\n"),
    "headers of 100 KB": header(b"x-a: " + b"b" * 100_000),
    "20,000 headers": header(b"\r\n".join([b"x-a: b"] * 20_000)),
    "no status line": b"ok, here you are\r\n\r\n",
    "version 0.9": line(b"HTTP/0.9 200 OK"),
    "version 2.0": line(b"HTTP/2.0 200 OK"),
    "version of one digit": line(b"HTTP/1 200 OK"),
    "small letters in the version": line(b"http/1.1 200 OK"),
    "another protocol": line(b"ICY 200 OK"),
    "status of two digits": line(b"HTTP/1.1 99 OK"),
    "status of four digits": line(b"HTTP/1.1 2000 OK"),
    "status in letters": line(b"HTTP/1.1 abc OK"),
    "status 000": line(b"HTTP/1.1 000 OK"),
    "status 999": line(b"HTTP/1.1 999 OK"),
    "no space before the status": line(b"HTTP/1.1200 OK"),
    "another protocol offered": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 settings": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "chunk size in 0x": plain(CHUNKED, body=b"0x2\r\nok\r\n0\r\n\r\n"),
    "chunk size with plus": plain(CHUNKED, body=b"+2\r\nok\r\n0\r\n\r\n"),
    "chunk size in letters": plain(CHUNKED, body=b"zz\r\nok\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": plain(CHUNKED, body=b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    "no chunk size": plain(CHUNKED, body=b"\r\nok\r\n0\r\n\r\n"),
}
BROKEN_OFF = {
    "body shorter than its length": plain(b"content-length: 9\r\n"),
    "no last chunk": plain(CHUNKED, body=chunk(b"ok")),
    "half a chunk": plain(CHUNKED, body=b"9\r\nok"),
    "no line end behind the last chunk": plain(CHUNKED, body=chunk(b"ok") + b"0\r\n"),
    "bad size behind a chunk": plain(CHUNKED, body=chunk(b"ok") + b"zz\r\n"),
    "no line end behind a chunk": plain(CHUNKED, body=b"2\r\nok0\r\n\r\n"),
    "chunk longer than its size": plain(CHUNKED, body=b"1\r\nok\r\n0\r\n\r\n"),
    "bad trailer": plain(CHUNKED, body=chunk(b"ok") + b"0\r\nx y\r\n\r\n"),
}
SURPLUS = {
    "answer nobody asked for": plain(TWO) + EVIL,
    "body longer than its length": plain(TWO, body=b"okevil"),
    "bytes behind the last chunk": plain(CHUNKED, body=CHUNKS + b"evil"),
    "answer behind the last chunk": plain(CHUNKED, body=CHUNKS + EVIL),
    "line end behind the body": plain(TWO, body=b"ok\r\n"),
    "body of a 204": plain(TWO, line=b"HTTP/1.1 204 No Content\r\n") + EVIL,
    "body of a 304": plain(TWO, line=b"HTTP/1.1 304 Not Modified\r\n") + EVIL,
}


@pytest.fixture
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok("good")) as rogue:
        yield rogue


@pytest.fixture
def before_it(engine: RogueEngine) -> Iterator[InProcess]:
    instance = InstanceSettings(url=engine.url, name="e", kind="mixed", engine="openai")
    with gateway(instance, scheduling=SchedulingSettings(retries=0)) as g:
        yield g


def good_again(g: InProcess, engine: RogueEngine) -> None:
    """The next request is served, on another connection, and nothing of this one is left."""
    with Caller(g.port) as caller:
        assert caller.chat().reply().body == b"good"
    assert engine.connections == 2
    g.until(lambda r: r.gateway.in_flight == 0)


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP.keys())
def test_what_is_no_http_is_502(engine: RogueEngine, before_it: InProcess, answer: bytes) -> None:
    engine.answers.insert(0, raw(answer))
    with Caller(before_it.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.error["type"], reply.complete) == (502, "upstream_error", True)
    good_again(before_it, engine)


@pytest.mark.parametrize("answer", BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
def test_what_breaks_off_never_looks_complete(
    engine: RogueEngine, before_it: InProcess, answer: bytes
) -> None:
    engine.answers.insert(0, raw(answer, then="close"))
    with Caller(before_it.port) as caller:
        reply = caller.chat().reply()
        assert reply.status == 502 or not reply.complete
    good_again(before_it, engine)


@pytest.mark.parametrize("answer", SURPLUS.values(), ids=SURPLUS.keys())
def test_what_was_not_asked_for_reaches_nobody(
    engine: RogueEngine, before_it: InProcess, answer: bytes
) -> None:
    engine.answers.insert(0, raw(answer))
    with Caller(before_it.port) as caller:
        reply = caller.chat().reply()
        assert (reply.status, reply.body) in ((200, b"ok"), (204, b""), (304, b""), (502, reply.body))
        assert b"evil" not in reply.body
        assert caller.chat().reply().body == b"good"
    assert engine.connections == 2
