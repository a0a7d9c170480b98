"""Parse requests, and refuse those that two readers could understand in two ways (RFC 9112 section 11.2).

llhttp reads the bytes. It is lenient in places, and an engine has a parser of its own: where the two disagree about
the end of a request, the rest of it would be read as another one (request smuggling). A request that is refused here
never reaches an engine. The sizes of heads and of the framing between chunks are bounded, because llhttp has no limits.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

import httptools

from sage_inference.wire.message import Header

_HOST = re.compile(rb"(?:[\w.~%!$&'()*+;=-]*|\[[\da-fA-F:.%\w]+\])(?::\d*)?")
_VERSIONS = ("1.0", "1.1")
# llhttp obeys these even in a trailer, after the head was checked.
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"proxy-connection", b"upgrade")
# Limits on the framing of a chunked body: bytes for each chunk, and bytes for all extensions and trailers.
_CHUNK_BYTES = 32
_EXTRA_BYTES = 16384
# Each chunk costs a call. Therefore each uses up as many bytes of an allowance, and each byte of the body adds one.
_GRAIN_BYTES = 64
_GRAINS = 8192 * _GRAIN_BYTES
# Bytes that are parsed at once of a head, and of a chunked body.
_HEAD_SLICE, _CHUNK_SLICE = 4096, 1024
_BLANK_LINES = re.compile(rb"[\r\n]*")
_HEAD_END = b"\r\n\r\n"


class ProblemKind(Enum):
    """The reason for which a request is not served."""

    BAD_FRAMING = auto()  # it is not HTTP/1.1, or has two meanings
    TRANSFER_CODING = auto()  # the detail is the value of the header
    EXPECTATION = auto()  # the detail is the value of the header
    HEAD_TOO_LARGE = auto()  # the detail is the limit
    CHUNKS_TOO_SMALL = auto()


class RequestProblem(Exception):
    """A request cannot be read on, and neither can what follows it on its connection."""

    def __init__(self, kind: ProblemKind, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


class RequestEvents(Protocol):
    """The connection. The parser calls it directly, without a call through the guard.

    ``on_headers_complete`` has to call ``check_head`` first, ``on_body`` to add to ``body_bytes``, and
    ``on_message_complete`` to call ``end`` first. An exception in one of them stops the parser.
    """

    def on_headers_complete(self) -> None: ...

    def on_body(self, body: bytes, /) -> None: ...

    def on_message_complete(self) -> None: ...


class RequestGuard:
    """The parser of one connection's requests, with the counts that bound what it reads.

    The parser's callbacks are attributes of this object. Those that it only passes on are the connection's own.
    """

    __slots__ = (
        # The connection
        "on_body",
        "on_headers_complete",
        "on_message_complete",
        "parser",
        "_host",
        # The bytes that are being parsed
        "fed",
        "begun",
        # The message
        "in_message",
        "in_head",
        "head_bytes",
        "url",
        "headers",
        "expects_continue",
        "offers",
        "length",
        "is_chunked",
        "body_bytes",
        "_chunks",
        "_body_read",
    )

    parser: httptools.HttpRequestParser

    def __init__(self) -> None:
        self._host = b""  # the last one that was found well-formed
        self.fed = 0
        self.begun = 0  # messages that began in the bytes being parsed
        self.in_message = False
        self.in_head = False
        self.head_bytes = 0  # of a head that did not end in the bytes with which it began
        self.url = b""
        self.headers: list[Header] = []
        self.expects_continue = False
        self.offers = False  # another protocol: the head is parsed a second time, without the offer
        self.length = 0  # by Content-Length
        self.is_chunked = False
        self.body_bytes = 0  # of the body, so far; the connection counts them
        self._chunks = 0
        self._body_read = 0  # bytes of a chunked body with its framing

    def start(self, events: RequestEvents) -> None:
        """Make the parser. Its callbacks are bound to this object and to ``events``, until ``stop``."""
        self.on_headers_complete = events.on_headers_complete
        self.on_body = events.on_body
        self.on_message_complete = events.on_message_complete
        self._make_parser()

    def stop(self) -> None:
        """Drop what points back here: otherwise the connection would be freed by the garbage collector only."""
        del self.parser, self.on_headers_complete, self.on_body, self.on_message_complete

    def _make_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def end_of_slice(self, data: bytes, start: int) -> int:
        """Where to stop parsing ``data``: no two requests begin before it, so each is checked before the next."""
        left = self.length - self.body_bytes
        if left > 0:
            return start + left
        if self.is_chunked:
            return start + _CHUNK_SLICE
        if not self.in_message:
            start = _BLANK_LINES.match(data, start).end()  # type: ignore[union-attr]
        found = data.find(_HEAD_END, start, start + _HEAD_SLICE)
        return start + _HEAD_SLICE if found < 0 else found + 4

    def feed(self, data: bytes | memoryview) -> None:
        """Parse ``data``. Raises ``RequestProblem``, and ``HttpParserError`` where the parser or a callback failed."""
        self.fed = len(data)
        self.begun = 0
        if self.in_head:
            self.head_bytes += self.fed
        elif self.is_chunked:
            self._body_read += self.fed
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_offer(memoryview(data)[upgrade.args[0] :])
        if self.is_chunked:
            if self._chunks * _GRAIN_BYTES - self.body_bytes > _GRAINS:
                raise RequestProblem(ProblemKind.CHUNKS_TOO_SMALL)
            self._check_framing()

    def _pass_over_offer(self, rest: memoryview) -> None:
        """A head offered another protocol: parse it as if it had not, because httptools leaves its body unread."""
        while True:
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))
            self._make_parser()
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    # Called by the parser

    def on_message_begin(self) -> None:
        self.begun += 1
        self.in_message = self.in_head = True
        self.head_bytes = 0
        self.url = b""
        self.headers = []
        self.expects_continue = self.is_chunked = False
        self.length = self.body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if not self.in_head:
            if name in _FRAMING:
                raise RequestProblem(ProblemKind.BAD_FRAMING)
            return  # a trailer: it comes after all checks of the head, and no engine needs one
        if name == b"expect" and value:
            if value.lower() != b"100-continue":
                raise RequestProblem(ProblemKind.EXPECTATION, _quoted(value))
            self.expects_continue = True
        self.headers.append((name, value))

    def on_chunk_header(self) -> None:
        self._chunks += 1

    # Called by the connection within its callbacks

    def check_head(self, most_headers: int, most_bytes: int) -> None:
        """Check the head that is complete now, unless it ``offers`` another protocol. Raises ``RequestProblem``."""
        self.in_head = False
        self.offers = self.parser.should_upgrade()
        if self.offers:
            if self.parser.get_method() == b"CONNECT":
                raise RequestProblem(ProblemKind.BAD_FRAMING)
            return
        if len(self.headers) > most_headers:
            raise RequestProblem(ProblemKind.HEAD_TOO_LARGE, f"{most_headers} headers")
        version = self.parser.get_http_version()
        hosts = 0
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
                if value != self._host:
                    if not _HOST.fullmatch(value):
                        raise RequestProblem(ProblemKind.BAD_FRAMING)
                    self._host = value
            elif name == b"content-length":
                self.length = int(value)  # llhttp has checked it: digits, one value, not beside chunked
            elif name == b"transfer-encoding":
                if self.is_chunked or version != "1.1":
                    raise RequestProblem(ProblemKind.BAD_FRAMING)
                if value.lower() != b"chunked":
                    raise RequestProblem(ProblemKind.TRANSFER_CODING, _quoted(value))
                self.is_chunked = True
        if hosts > 1 or (not hosts and version == "1.1") or version not in _VERSIONS or b"#" in self.url:
            raise RequestProblem(ProblemKind.BAD_FRAMING)
        if size > most_bytes:
            raise RequestProblem(ProblemKind.HEAD_TOO_LARGE, f"{most_bytes} bytes")
        if self.is_chunked:
            self._chunks = 0
            # Where several messages came in one piece it is unknown which bytes belong to which.
            self._body_read = (self.fed if self.begun == 1 else 0) - size

    def end(self) -> None:
        """The message is complete. Raises ``RequestProblem``."""
        self.in_message = False
        if self.is_chunked:
            self.is_chunked = False
            self._check_framing()

    def _check_framing(self) -> None:
        if self._body_read - self.body_bytes - self._chunks * _CHUNK_BYTES > _EXTRA_BYTES:
            raise RequestProblem(ProblemKind.BAD_FRAMING)


NOT_STARTED = RequestGuard()  # shared by connections that have parsed nothing; never started, never changed


def _quoted(value: bytes) -> str:
    return value[:60].decode("latin-1")
