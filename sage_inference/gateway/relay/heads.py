"""The heads of relayed messages: the headers that an engine gets, and the status lines that a caller gets."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from sage_inference.requests.hints import asked_of_scheduler
from sage_inference.requests.routes import Route
from sage_inference.telemetry.tracing.context import TRACE_HEADERS, TraceContext, context_in
from sage_inference.types import RequestType
from sage_inference.wire.content_coding import codings_in
from sage_inference.wire.message import HOP_BY_HOP, Headers

if TYPE_CHECKING:
    from sage_inference.gateway.key_limits.budget import KeyBudget

# Headers that are written anew for the engine, or that do not concern it.
_NOT_SENT = HOP_BY_HOP | {
    b"host",
    b"content-encoding",  # the engine gets the decoded body
    b"expect",
    b"x-request-id",
    b"x-sage-priority",
    b"x-sage-deadline-ms",
    b"x-sage-session",
    b"x-sage-why",
    b"via",
}
ACCEPT_IDENTITY = b"accept-encoding: identity\r\n"  # for answers that the gateway itself reads
# The gateway reads their answers, because vectors may be shared by several callers and a response's id is remembered.
_READ = (RequestType.EMBEDDING, RequestType.RESPONSES)
_DIGESTS = (b"content-digest:", b"repr-digest:", b"digest:", b"content-md5:")
KEYS = frozenset({b"authorization", b"x-api-key"})
_MAX_ID = 200


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(200, 600)}


class RequestHead:
    """A request's head, parsed and valid. It depends only on the bytes and the configuration, so it can be cached.

    ``target`` is path and query as the caller sent them. ``lines`` are the headers that an engine gets,
    ``keyed_lines`` the same with the caller's own key. ``request_id`` is the caller's, or empty.
    ``budget`` is that of the caller's key, None if the key has no limits. ``is_cached``: the head is cached.
    ``codings`` are those of the body, which is decoded for the engine. ``trace`` is the caller's trace context, where
    requests are ``traced``: then an engine gets another one.
    """

    __slots__ = (
        # The request as it came
        "route",
        "target",
        "headers",
        "http10",
        "keep_alive",
        "tenant",
        "budget",
        "request_id",
        "asks",
        "codings",
        "trace",
        # Bytes for the engine
        "lines",
        "keyed_lines",
        # Bytes for the caller
        "cors",
        # Of the cache
        "is_cached",
    )

    def __init__(
        self,
        route: Route,
        target: bytes,
        headers: Headers,
        tenant: str = "",
        *,
        keep_alive: bool,
        http10: bool = False,
        cors: bytes = b"",
        budget: KeyBudget | None = None,
        traced: bool = False,
    ) -> None:
        self.is_cached = False
        self.route = route
        self.target = target
        self.headers = headers
        self.tenant = tenant
        self.budget = budget
        self.keep_alive = keep_alive
        self.http10 = http10
        self.cors = cors
        self.request_id = given_id(headers)
        self.asks = asked_of_scheduler(headers)
        dropped = _dropped(headers)
        self.trace: TraceContext | None = None
        if traced:
            dropped |= TRACE_HEADERS
            self.trace = context_in(headers)
        lines, keyed, coded = [], [], []
        if route.type in _READ:
            dropped |= {b"accept-encoding"}
            lines.append(ACCEPT_IDENTITY)
            keyed.append(ACCEPT_IDENTITY)
        for name, value in headers:
            if name not in dropped:
                line = b"%b: %b\r\n" % (name, value)
                keyed.append(line)
                if name not in KEYS:
                    lines.append(line)
            elif name == b"content-encoding":
                coded.append(value)
        self.codings = codings_in(coded) if coded else ()
        if self.codings:  # drop digests of the compressed bytes: the engine gets others
            lines = [line for line in lines if not line.startswith(_DIGESTS)]
            keyed = [line for line in keyed if not line.startswith(_DIGESTS)]
        self.lines = b"".join(lines)
        self.keyed_lines = b"".join(keyed)


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The caller's ``x-request-id``, or nothing."""
    for name, value in headers:
        if name == b"x-request-id" and 0 < len(value) <= _MAX_ID:
            return value
    return b""


def _dropped(headers: Headers) -> frozenset[bytes]:
    """The headers that are not sent on: ``_NOT_SENT``, and those that ``Connection`` limits to this hop."""
    return _NOT_SENT.union(
        token.strip()
        for name, value in headers
        if name == b"connection"
        for token in value.lower().split(b",")
    )
