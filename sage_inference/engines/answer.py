"""The head of an engine's answer: what it says, and the lines of it that go on to a caller.

Heads repeat: an engine answers thousands of requests with the same bytes but for a length. What was parsed
and checked once is remembered under those bytes, and need not be parsed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
_MOST_DIGITS = 15

Headers = list[tuple[bytes, bytes]]


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
            if header[0] != b"x-request-id" and not header[0].startswith(b"x-sage-")
        ]
        streams = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in self.headers
        )
        object.__setattr__(self, "lines", b"".join(lines))
        object.__setattr__(self, "streams", streams)


def without_length(data: bytes, end: int) -> tuple[bytes, int]:
    """The head that ends at ``end`` with its Content-Length cut out, and that length; -1 where it has none."""
    start = data.find(b"\r\nContent-Length: ", 0, end)
    if start < 0:
        start = data.find(b"\r\ncontent-length: ", 0, end)
        if start < 0:
            return data[:end], -1
    start += 18
    stop = data.find(b"\r", start, start + _MOST_DIGITS + 1)
    digits = data[start:stop]
    if not digits.isdigit():
        return b"", -1  # no head is remembered under this
    return data[:start] + data[stop:end], int(digits)
