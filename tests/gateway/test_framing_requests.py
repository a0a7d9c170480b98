"""Requests whose framing is malformed or ambiguous: refused, the connection closed, and no engine hears of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from sage_inference.config.settings import TimeoutSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.wire import CHAT, Caller, chat, post

BODY = chat()
SIZE = b"%d" % len(BODY)
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"host: 127.0.0.1\r\n"
LENGTH = b"content-length: " + SIZE + b"\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = post(CHAT, BODY, "x-smuggled: yes")


def plain(*headers: bytes, line: bytes = LINE, body: bytes = BODY) -> bytes:
    return line + HOST + b"".join(headers) + b"\r\n" + body


def length(value: bytes) -> bytes:
    return plain(b"content-length: " + value + b"\r\n")


def coded(value: bytes, body: bytes = CHUNKS) -> bytes:
    return plain(b"transfer-encoding: " + value + b"\r\n", body=body)


def chunks(body: bytes) -> bytes:
    return plain(CHUNKED, body=body)


def line(text: bytes) -> bytes:
    return plain(LENGTH, line=text + b"\r\n")


def header(text: bytes) -> bytes:
    return plain(LENGTH, text + b"\r\n")


LENGTHS = {
    "two lengths that differ": plain(LENGTH, b"content-length: 5\r\n"),
    "two lengths that agree": plain(LENGTH, LENGTH),
    "two lengths in different case": plain(LENGTH, b"Content-Length: " + SIZE + b"\r\n"),
    "a list of lengths": length(SIZE + b", " + SIZE),
    "a list of two lengths": length(b"5, " + SIZE),
    "length with plus": length(b"+" + SIZE),
    "length with minus": length(b"-" + SIZE),
    "length minus one": length(b"-1"),
    "length in hex": length(b"0x" + b"%x" % len(BODY)),
    "length with underscore": length(SIZE[:1] + b"_" + SIZE[1:]),
    "length with a space inside": length(SIZE[:1] + b" " + SIZE[1:]),
    "length with a dot": length(SIZE + b".0"),
    "length with an exponent": length(b"1e2"),
    "length in quotes": length(b'"' + SIZE + b'"'),
    "length with a NUL": length(SIZE + b"\0"),
    "length in other digits": length("٤٢".encode()),
    "no digits in length": length(b""),
    "letters in length": length(b"many"),
    "length beyond 64 bits": length(b"18446744073709551658"),
    "length of 100 digits": length(b"9" * 100),
}
CODINGS = {
    "length, then chunked": plain(LENGTH, CHUNKED, body=CHUNKS),
    "chunked, then length": plain(CHUNKED, LENGTH, body=CHUNKS),
    "chunked and length, smuggling": plain(b"content-length: 5\r\n", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunked twice": plain(CHUNKED, CHUNKED, body=CHUNKS),
    "chunked, chunked": coded(b"chunked, chunked"),
    "identity": coded(b"identity"),
    "chunked, identity": coded(b"chunked, identity"),
    "identity, chunked": coded(b"identity, chunked"),
    "gzip": coded(b"gzip"),
    "no chunk behind an upgrade": plain(b"connection: upgrade\r\nupgrade: h2c\r\n", CHUNKED, body=b"zz\r\n"),
    "gzip, chunked": coded(b"gzip, chunked"),
    "chunked in a list with nothing": coded(b"chunked,"),
    "xchunked": coded(b"xchunked"),
    "chunkedx": coded(b"chunkedx"),
    "chunked in quotes": coded(b'"chunked"'),
    "chunked after a tab inside": coded(b"\x0bchunked"),
    "no coding named": coded(b""),
    "chunked in HTTP/1.0": plain(CHUNKED, line=LINE.replace(b"1.1", b"1.0"), body=CHUNKS),
    "space before the colon": plain(b"transfer-encoding : chunked\r\n", body=CHUNKS),
    "tab before the colon": plain(b"transfer-encoding\t: chunked\r\n", body=CHUNKS),
    "coding on a continued line": plain(b"transfer-encoding:\r\n chunked\r\n", body=CHUNKS),
    "coding smuggled by a line feed": plain(LENGTH, b"x: y\ntransfer-encoding: chunked\r\n", body=CHUNKS),
}
CHUNK_FRAMES = {
    "chunk size in 0x": chunks(b"0x" + CHUNKS),
    "chunk size with plus": chunks(b"+" + CHUNKS),
    "chunk size with minus": chunks(b"-" + CHUNKS),
    "chunk size with underscore": chunks(b"0_" + CHUNKS),
    "space before a chunk size": chunks(b" " + CHUNKS),
    "space behind a chunk size": chunks(CHUNKS.replace(b"\r\n", b" \r\n", 1)),
    "no chunk size": chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "letters as chunk size": chunks(b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunks(b"10000000000000000\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size ended by a line feed": chunks(CHUNKS.replace(b"\r\n", b"\n", 1)),
    "chunk size ended by a return": chunks(CHUNKS.replace(b"\r\n", b"\r", 1)),
    "no line end behind a chunk": chunks(b"%x\r\n%b0\r\n\r\n" % (len(BODY), BODY)),
    "line feed alone behind a chunk": chunks(b"%x\r\n%b\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk longer than its size": chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 1, BODY)),
    "chunk extension of 20 KB": chunks(b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(BODY), b"x" * 20_000, BODY)),
    "many chunk extensions": chunks((b"1;" + b"x" * 500 + b"\r\n \r\n") * 50 + CHUNKS),
    "chunk extension with a line feed": chunks(b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk extension with a NUL": chunks(b"%x;a\0b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "trailer without a colon": chunks(CHUNKS[:-2] + b"trailer\r\n\r\n"),
    "trailer with a length": chunks(CHUNKS[:-2] + b"content-length: 5\r\n\r\n"),
    "trailers of 100 KB": chunks(CHUNKS[:-2] + b"x: " + b"y" * 100_000 + b"\r\n\r\n"),
}
HEADERS = {
    "header without a colon": header(b"novalue"),
    "header without a name": header(b": value"),
    "space before a colon": header(b"x-a : b"),
    "space before a name": header(b" x-a: b"),
    "continued line": header(b"x-a: b\r\n c"),
    "NUL in a name": header(b"x\0a: b"),
    "NUL in a value": header(b"x-a: b\0c"),
    "return in a value": header(b"x-a: b\rc"),
    "line feed as line end": header(b"x-a: b\nx-c: d"),
    "return as line end": header(b"x-a: b\rx-c: d"),
    "control character in a value": header(b"x-a: b\x01c"),
    "DEL in a value": header(b"x-a: b\x7fc"),
    "parenthesis in a name": header(b"x(a): b"),
    "at sign in a name": header(b"x@a: b"),
    "non-ASCII name": header(b"x\xe9: b"),
    "quote in a name": header(b'"x": b'),
    "line feeds alone": plain(LENGTH).replace(b"\r\n", b"\n"),
    "no host": LINE + LENGTH + b"\r\n" + BODY,
    "two hosts": plain(b"host: localhost\r\n", LENGTH),
    "host with a path": LINE + b"host: 127.0.0.1/x\r\n" + LENGTH + b"\r\n" + BODY,
    "host with a user": LINE + b"host: me@127.0.0.1\r\n" + LENGTH + b"\r\n" + BODY,
    "host with a comma": LINE + b"host: 127.0.0.1, evil\r\n" + LENGTH + b"\r\n" + BODY,
}
LINES = {
    "no version": line(b"POST /v1/chat/completions"),
    "version 2.0": line(b"POST /v1/chat/completions HTTP/2.0"),
    "version 1.2": line(b"POST /v1/chat/completions HTTP/1.2"),
    "version 0.9": line(b"POST /v1/chat/completions HTTP/0.9"),
    "version of one digit": line(b"POST /v1/chat/completions HTTP/1"),
    "version of two digits": line(b"POST /v1/chat/completions HTTP/1.10"),
    "small letters in the version": line(b"POST /v1/chat/completions http/1.1"),
    "word behind the version": line(b"POST /v1/chat/completions HTTP/1.1 x"),
    "tabs": line(b"POST\t/v1/chat/completions\tHTTP/1.1"),
    "no method": line(b" /v1/chat/completions HTTP/1.1"),
    "small letters in the method": line(b"post /v1/chat/completions HTTP/1.1"),
    "unknown method": line(b"PO(T /v1/chat/completions HTTP/1.1"),
    "no target": line(b"POST HTTP/1.1"),
    "star with a path": line(b"POST *x HTTP/1.1"),
    "relative target": line(b"POST v1/chat/completions HTTP/1.1"),
    "return in the target": line(b"POST /v1/chat\r/completions HTTP/1.1"),
    "NUL in the target": line(b"POST /v1/chat/completions?\0 HTTP/1.1"),
    "DEL in the target": line(b"POST /v1/chat/completions?\x7f HTTP/1.1"),
    "fragment in the target": line(b"POST /v1/chat/completions#x HTTP/1.1"),
    "absolute target without host": line(b"POST http:///v1/chat/completions HTTP/1.1"),
    "absolute target of another scheme": line(b"POST ftp://127.0.0.1/v1/chat/completions HTTP/1.1"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(40)) + b"\r\n\r\n",
}
CASES = {**LENGTHS, **CODINGS, **CHUNK_FRAMES, **HEADERS, **LINES}


@pytest.fixture(scope="module")
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(ok()) as rogue:
        yield rogue


@pytest.fixture(scope="module")
def before_it(engine: RogueEngine) -> Iterator[InProcess]:
    # A case that leaves the gateway waiting for more must fail at once, by a 408.
    with gateway(engine, timeouts=TimeoutSettings(header_s=1.0, body_s=1.0)) as g:
        yield g


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_is_refused_and_the_connection_closed(
    engine: RogueEngine, before_it: InProcess, case: bytes
) -> None:
    heard = len(engine.requests)
    with Caller(before_it.port) as caller:
        with suppress(ConnectionError):  # the answer may come before all is sent
            caller.send(case + SMUGGLED)
        answer = caller.rest()
    assert statuses(answer) in ([400], [431], [413], [403]), answer
    assert b"\r\nconnection: close\r\n" in answer.lower()
    assert len(engine.requests) == heard


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_is_refused_behind_a_good_request_too_and_byte_by_byte(
    engine: RogueEngine, before_it: InProcess, case: bytes
) -> None:
    if len(case) > 2000:
        case = case[:2000]
    heard = len(engine.requests)
    with Caller(before_it.port) as caller:
        assert caller.chat().reply().status == 200
        with suppress(ConnectionError):
            for at in range(len(case)):
                caller.send(case[at : at + 1])
            caller.send(SMUGGLED)
        caller.rest()
    assert len(engine.requests) == heard + 1


@pytest.mark.parametrize("name", ["gzip, chunked", "identity, chunked", "deflate, chunked"])
def test_a_transfer_coding_that_is_not_read_is_named(before_it: InProcess, name: str) -> None:
    with Caller(before_it.port) as caller:
        reply = caller.send(coded(name.encode())).reply()
    assert reply.status == 400
    assert f'transfer coding "{name}"' in reply.error["message"]
    assert "Content-Encoding" in reply.error["message"]


@pytest.mark.parametrize("value", ["200-ok", "100-continue, x", "x=y", "continue"])
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/admin/policy"])
def test_an_expectation_that_is_not_met_is_417(
    engine: RogueEngine, before_it: InProcess, path: str, value: str
) -> None:
    heard = len(engine.requests)
    with Caller(before_it.port) as caller:
        reply = caller.send(post(path, chat(), f"expect: {value}")).reply()
        assert reply.status == 417
        assert f'expects "{value}"' in reply.error["message"]
        assert caller.closed()
    assert len(engine.requests) == heard


@pytest.mark.parametrize("value", ["", "100-Continue"])
def test_an_expectation_that_is_met(before_it: InProcess, value: str) -> None:
    with Caller(before_it.port) as caller:
        caller.send(post(CHAT, chat(), f"expect: {value}"))
        if value:
            assert caller.head().status == 100
        assert caller.reply().status == 200


def test_garbage_behind_pipelined_requests_ends_the_connection(
    engine: RogueEngine, before_it: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    heard = len(engine.requests)
    with Caller(before_it.port) as caller:
        first = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        caller.send(first + post(CHAT, chat()) + b"no HTTP\r\n\r\n" + SMUGGLED)
        answers = b""
        with suppress(ConnectionError):
            answers = caller.rest()
    # What stood before it may be answered: it is parsed when its turn comes, as if it had come later.
    assert answers.count(b"HTTP/1.1 200 OK") <= 2
    assert len(engine.requests) <= heard + 1
    assert not caplog.records  # the event loop tells there of what escaped
