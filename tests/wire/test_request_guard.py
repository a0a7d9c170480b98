"""Requests with two meanings stop the guard's parser, and sizes that llhttp does not bound have limits."""

from __future__ import annotations

import gc
import weakref

import httptools
import pytest

from sage_inference.wire.request_guard import ProblemKind, RequestGuard, RequestProblem

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
CHUNKED = LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


class Connection:
    """Stands for the connection that owns a guard, and notes each event that the guard reports."""

    def __init__(self, most_headers: int = 100, most_bytes: int = 65536) -> None:
        self.guard = RequestGuard()
        self.guard.start(self)
        self.limits = most_headers, most_bytes
        self.heads: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
        self.bodies: list[bytes] = []

    def on_headers_complete(self) -> None:
        self.guard.check_head(*self.limits)
        if not self.guard.offers:
            self.heads.append((self.guard.url, self.guard.headers))
            self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.guard.body_bytes += len(body)
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.guard.end()

    def feed(self, data: bytes, most: int = 1 << 20) -> int:
        """Parse the data in slices, as the gateway does, or in smaller ones. Returns how many slices it took."""
        start = slices = 0
        while start < len(data):
            end = min(self.guard.end_of_slice(data, start), start + most)
            self.guard.feed(memoryview(data)[start:end])
            start = end
            slices += 1
        return slices


def problem(data: bytes, most: int = 1 << 20, **limits: int) -> RequestProblem:
    """The problem at which the guard stops."""
    connection = Connection(**limits)
    with pytest.raises((RequestProblem, httptools.HttpParserError)) as caught:
        connection.feed(data, most)
    cause = caught.value
    if not isinstance(cause, RequestProblem):
        assert isinstance(cause.__context__, RequestProblem), cause
        cause = cause.__context__
    return cause


def chunks(*sizes: int, extension: bytes = b"") -> bytes:
    return b"".join(b"%x%b\r\n%b\r\n" % (size, extension, b"x" * size) for size in sizes)


@pytest.mark.parametrize("most", [1 << 20, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    "head",
    [
        LINE + b"\r\n",
        LINE + HOST + HOST + b"\r\n",
        LINE + b"Host: a, b\r\n\r\n",
        LINE + b"Host: me@h\r\n\r\n",
        LINE.replace(b"1.1", b"1.0") + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n" + HOST + b"\r\n",
        CHUNKED + b"0\r\nConnection: close\r\n\r\n",
        CHUNKED + b"0\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_a_request_with_two_meanings_is_bad_framing(head: bytes, most: int) -> None:
    assert problem(head, most).kind is ProblemKind.BAD_FRAMING


def test_a_transfer_coding_and_an_expectation_are_named_and_cut() -> None:
    coding = problem(LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n")
    assert (coding.kind, coding.detail) == (ProblemKind.TRANSFER_CODING, "gzip, chunked")
    expectation = problem(LINE + HOST + b"Expect: " + b"x" * 100 + b"\r\n\r\n")
    assert (expectation.kind, expectation.detail) == (ProblemKind.EXPECTATION, "x" * 60)


def test_heads_have_a_limit_in_headers_and_in_bytes() -> None:
    head = LINE + HOST + b"a: b\r\n" * 9 + b"\r\n"
    assert problem(head, most_headers=9).detail == "9 headers"
    assert problem(head, most_bytes=80).detail == "80 bytes"
    Connection(most_headers=10, most_bytes=len(head)).feed(head)


@pytest.mark.parametrize("most", [1 << 20, 7], ids=["in slices", "in small pieces"])
def test_framing_beyond_the_body_is_bounded_and_that_of_each_chunk_is_free(most: int) -> None:
    Connection().feed(CHUNKED + chunks(*[1] * 2000, extension=b";x=" + b"y" * 20) + b"0\r\n\r\n", most)
    for body in (
        chunks(*[1] * 2000, extension=b";x=" + b"y" * 60) + b"0\r\n\r\n",
        chunks(5, extension=b";x=" + b"y" * 20_000) + b"0\r\n\r\n",
        b"0\r\n" + b"x: y\r\n" * 4000 + b"\r\n",
    ):
        assert problem(CHUNKED + body, most).kind is ProblemKind.BAD_FRAMING


def test_small_chunks_have_a_limit_that_large_ones_raise() -> None:
    small = chunks(*[1] * 8000)
    assert problem(CHUNKED + small * 2).kind is ProblemKind.CHUNKS_TOO_SMALL
    Connection().feed(CHUNKED + small + chunks(600_000) + small + b"0\r\n\r\n")


def test_each_message_has_an_allowance_of_its_own() -> None:
    connection = Connection()
    for _ in range(3):
        connection.feed(CHUNKED + chunks(*[1] * 8000) + b"0\r\n\r\n")
    assert [len(body) for body in connection.bodies] == [8000] * 3


@pytest.mark.parametrize(
    "data",
    [
        LINE + HOST + b"Content-Length: 5\r\n\r\nhello",
        CHUNKED + chunks(5, 3000) + b"0\r\n\r\n",
        LINE + HOST + b"Expect: 100-continue\r\n\r\n",
        b"\r\n\r\n" + LINE + HOST + b"\r\n",
    ],
)
def test_no_two_requests_begin_in_one_slice(data: bytes) -> None:
    connection = Connection()
    start, both = 0, data * 2
    while start < len(both):
        end = connection.guard.end_of_slice(both, start)
        connection.guard.feed(memoryview(both)[start:end])
        assert connection.guard.begun <= 1
        start = end
    assert len(connection.heads) == 2


@pytest.mark.parametrize("most", [1 << 20, 1], ids=["at once", "byte by byte"])
def test_an_offered_protocol_is_passed_over_and_the_body_read(most: int) -> None:
    connection = Connection()
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    connection.feed(LINE + HOST + offer + LINE + HOST + b"\r\n", most)
    assert connection.bodies == [b"hello", b""]
    assert [name for name, _ in connection.heads[0][1]] == [b"host", b"connection", b"content-length"]


def test_trailers_are_read_and_dropped() -> None:
    connection = Connection()
    connection.feed(CHUNKED + chunks(5) + b"0\r\nX-Sum: 1\r\n\r\n")
    assert connection.heads[0][1] == [(b"host", b"h"), (b"transfer-encoding", b"chunked")]
    assert not connection.guard.in_message


def test_a_stopped_guard_leaves_nothing_to_the_garbage_collector() -> None:
    gc.disable()
    try:
        connection = Connection()
        connection.feed(LINE + HOST + b"\r\n")
        connection.guard.stop()
        freed = weakref.ref(connection)
        del connection
        assert freed() is None
    finally:
        gc.enable()
