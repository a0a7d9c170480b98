"""The heads of relayed messages: what goes on to the engine, what comes back to the caller."""

from __future__ import annotations

from http import HTTPStatus

from sage_inference.engines.connection import HOP_BY_HOP

# Made anew for the engine, or of no concern to it.
_NOT_SENT = HOP_BY_HOP | {
    b"host",
    b"expect",
    b"x-request-id",
    b"x-sage-priority",
    b"x-sage-deadline-ms",
    b"via",
}
_KEYS = frozenset({b"authorization", b"x-api-key"})


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(200, 600)}


def request_head(
    prefix: bytes,
    headers: list[tuple[bytes, bytes]],
    request_id: bytes,
    length: int,
    keep_key: bool,
) -> bytes:
    """``prefix`` is the request line with the engine's own headers (host, key), made once a route.

    The caller's key is for us; the engine sees it only where neither has a key configured.
    """
    named = _named_by_connection(headers)
    parts = [prefix]
    for name, value in headers:
        if name not in _NOT_SENT and (keep_key or name not in _KEYS) and name not in named:
            parts += (name, b": ", value, b"\r\n")
    parts.append(b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (request_id, length))
    return b"".join(parts)


def _named_by_connection(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Headers that ``Connection`` declares to be for this hop only."""
    for name, value in headers:
        if name == b"connection":
            low = value.lower()
            if low not in (b"keep-alive", b"close"):
                return frozenset(token.strip() for token in low.split(b","))
    return frozenset()


def response_head(status: int, headers: list[tuple[bytes, bytes]], framing: bytes, ours: bytes) -> bytes:
    """``framing`` and ``ours`` are whole header lines. Ours replace an engine's of the same name."""
    parts = [STATUS_LINES.get(status) or _status_line(status)]
    for name, value in headers:
        if name != b"x-request-id" and not name.startswith(b"x-sage-"):
            parts += (name, b": ", value, b"\r\n")
    parts += (framing, ours, b"\r\n")
    return b"".join(parts)
