"""A stream whose engine still loads: its head is sent before the engine is asked, and comments keep it alive.

From then on the engine's own head has no place any more. Its body follows the comments, and an error becomes the
last event of the stream.
"""

from __future__ import annotations

from typing import Protocol

from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.broken_stream import last_words
from sage_inference.gateway.relay.caller import Sink
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.requests.routes import Route
from sage_inference.types import SchedulingRequest
from sage_inference.wire.chunks import chunk
from sage_inference.wire.message import StreamFormat

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n"
)


class StreamedRequest(Protocol):
    """An exchange, as far as a stream needs it that has no engine yet."""

    request: SchedulingRequest
    head: RequestHead
    keep_alive: bool

    @property
    def caller(self) -> Sink: ...
    @property
    def route(self) -> Route: ...
    @property
    def caller_id(self) -> bytes: ...
    @property
    def begun(self) -> bool: ...

    def begin_stream(self) -> None: ...


def may_begin(exchange: StreamedRequest) -> bool:
    """Whether the request asks for a stream of events, and its caller's HTTP can carry one of unknown length."""
    return exchange.request.streams and exchange.route.type.is_llm and not exchange.head.http10


def comment(exchange: StreamedRequest, text: str) -> None:
    """Send a comment, which every reader of event streams skips. The first one comes after the head."""
    line = b": %b\n\n" % text.encode("ascii", "replace").replace(b"\n", b" ")
    head = b""
    if not exchange.begun:
        exchange.begin_stream()
        head = _head(exchange)
    exchange.caller.write(head + chunk(line))


def _head(exchange: StreamedRequest) -> bytes:
    close = b"" if exchange.keep_alive else b"connection: close\r\n"
    return b"%b%bx-request-id: %b\r\n%b\r\n" % (_HEAD, close, exchange.caller_id, exchange.head.cors)


def last_event(exchange: StreamedRequest, error: ApiError) -> bytes:
    """The chunk that reports ``error``. No last chunk follows, so that the stream is seen to be cut."""
    words = last_words(
        StreamFormat.EVENTS, format_of(exchange.route.path), error, exchange.caller_id, b"", True
    )
    return chunk(words)
