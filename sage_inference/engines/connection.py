"""One connection to an engine: sends a request, hands on its answer, knows whether it may be used again."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Protocol

import httptools

# What each hop keeps to itself (RFC 9110 section 7.6.1), and framing, which is made anew.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"content-length",
    }
)
MAX_HEAD_BYTES = 65536
_HUGE_HEAD = f"sent more than {MAX_HEAD_BYTES} bytes of headers"
_JOIN_BYTES = 65536  # above it, copying costs more than a second write


class Broken(Enum):
    """How an exchange with an engine failed; decides whether the request may be sent elsewhere."""

    REFUSED = auto()  # no connection was made
    CLOSED = auto()  # the engine closed or reset before its answer ended
    GARBAGE = auto()  # what came is not an HTTP answer


class Receiver(Protocol):
    """Who gets an answer: its head, then pieces of its body, the last one with ``end``.

    ``engine_failed`` comes instead of what is missing. ``length`` is None where the body's end is not
    told in advance.
    """

    def engine_answers(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None: ...

    def engine_sends(self, piece: bytes, end: bool) -> None: ...

    def engine_failed(self, how: Broken, detail: str) -> None: ...


class EngineConnection(asyncio.Protocol):
    """HTTP/1.1 to one engine, one exchange at a time.

    Reusable only after an answer that ended cleanly, by its own framing, with nothing behind it.
    """

    __slots__ = (
        "_answered",
        "_body",
        "_chunked",
        "_coded",
        "_complete",
        "_head_bytes",
        "_headers",
        "_keep_alive",
        "_length",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_receiver",
        "_surplus",
        "served",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, on_idle: _Told, on_lost: _Told) -> None:
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._receiver: Receiver | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self.served = (
            0  # answers it has carried: a failure on a fresh connection is the engine's, else maybe age
        )

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "busy" if self._receiver else "idle"
        return f"<EngineConnection {state}, {self.served} served>"

    @property
    def is_closed(self) -> bool:
        return self.transport.is_closing()

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Start an exchange on a connection that is idle."""
        self._receiver = receiver
        self._parser = httptools.HttpResponseParser(self)
        self._headers = []
        self._length: int | None = None
        self._chunked = self._coded = self._answered = self._complete = self._surplus = False
        self._keep_alive = False
        self._head_bytes = 0
        self._body = []
        if len(body) < _JOIN_BYTES:
            self.transport.write(head + body)  # one packet, one system call
        else:
            self.transport.write(head)
            self.transport.write(body)

    def discard(self) -> None:
        """Close at once and tell no one: the engine sees its caller leave."""
        self._receiver = None
        self.transport.abort()

    def pause(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._answered and not self._chunked and self._length is None:
            receiver.engine_sends(b"", True)  # a body that ends with its connection (RFC 9112 section 6.3)
        else:
            receiver.engine_failed(
                Broken.CLOSED, "closed the connection" if exc is None else "reset the connection"
            )

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None or self._parser is None:
            self.discard()  # an idle engine has nothing to say: whatever this is, it answers no request
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            if not self._complete:
                cause = error.__context__ if isinstance(error.__context__, ValueError) else error
                huge = str(cause) == _HUGE_HEAD
                self._fail(receiver, _HUGE_HEAD if huge else f"sent no valid HTTP: {cause}")
                return
            self._surplus = True
        if self._receiver is not receiver:
            return  # it was discarded from within
        if not self._answered:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(receiver, _HUGE_HEAD)
            return
        piece = b""
        if self._body:
            piece = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
        if self._complete:
            self._recycle()
        receiver.engine_sends(piece, self._complete)

    def _fail(self, receiver: Receiver, detail: str) -> None:
        self.discard()
        self._on_lost(self)
        receiver.engine_failed(Broken.GARBAGE, detail)

    def _recycle(self) -> None:
        clean = self._keep_alive and not self._surplus and (self._chunked or self._length is not None)
        self._receiver = None
        self.served += 1
        if clean and not self.transport.is_closing():
            self._on_idle(self)
        else:
            self.transport.abort()

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True
            return
        self._headers = []
        self._length = None
        self._chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(_HUGE_HEAD)
        name = name.lower()
        if name not in HOP_BY_HOP:
            self._headers.append((name, value))
        elif name == b"content-length":
            # llhttp has checked it: digits, one value, not beside chunked.
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = value.lower() == b"chunked"
            self._coded = not self._chunked

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self._surplus or (status < 200 and status != 101):
            return  # 1xx: the real answer follows
        if self._coded or status == 101:
            raise ValueError("a transfer coding or a protocol nobody asked for")
        self._answered = True
        if status in (204, 304):
            self._length = 0
        receiver = self._receiver
        if receiver is not None:
            receiver.engine_answers(status, self._headers, None if self._chunked else self._length)

    def on_body(self, body: bytes) -> None:
        if not self._surplus:
            self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._answered and not self._complete:
            self._complete = True
            # Asked now: llhttp forgets the message's framing as soon as this returns.
            self._keep_alive = self._parser.should_keep_alive()


class _Told(Protocol):
    def __call__(self, connection: EngineConnection, /) -> None: ...
