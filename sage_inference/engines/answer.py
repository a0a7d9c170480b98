"""The head of an engine's answer: what it says, and the lines of it that go on to a caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sage_inference.engines.origin_headers import acts_on_origin

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

# Of a body. If a long one begins in the same read as its head, the first piece is a view of what is not head.
Piece = bytes | memoryview
Header = tuple[bytes, bytes]
Headers = Sequence[Header]


@dataclass(frozen=True, slots=True)
class Answer:
    """``headers`` are in lower case and end to end only. ``lines``: those that go on, as they go on.

    ``streams``: it is an event stream.
    """

    status: int
    headers: Headers
    lines: bytes = field(init=False)
    streams: bool = field(init=False)

    def __post_init__(self) -> None:
        lines = [
            b"%b: %b\r\n" % header
            for header in self.headers
            if not (
                header[0] == b"x-request-id" or header[0].startswith(b"x-sage-") or acts_on_origin(header[0])
            )
        ]
        streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in self.headers
        )
        object.__setattr__(self, "lines", b"".join(lines))
        object.__setattr__(self, "streams", streams)
