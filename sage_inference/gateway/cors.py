"""The permissions that the gateway's answers grant to web pages of allowed origins."""

from __future__ import annotations

# A page can read only those headers of an answer that are named here, apart from a few that are always readable.
EXPOSED = (
    b"x-request-id, x-sage-instance, x-sage-queue-ms, x-sage-why, x-sage-truncated, request-id, retry-after"
)
VARY = (b"vary", b"Origin")


def grants(allowed: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an answer to a page; ``allowed`` is the value of ``access-control-allow-origin``."""
    return (
        (b"access-control-allow-origin", allowed),
        (b"access-control-expose-headers", EXPOSED),
        VARY,
    )


def grant_lines(allowed: bytes) -> bytes:
    """The same, as lines of a response head."""
    return b"".join(b"%b: %b\r\n" % pair for pair in grants(allowed))
