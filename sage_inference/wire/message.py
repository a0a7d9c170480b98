"""Headers, and the head of an engine's answer: its meaning, and the lines that are sent on to a caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from sage_inference.wire.origin_headers import is_gateways_own

# Headers that each hop keeps to itself (RFC 9110 section 7.6.1), and framing, which is made anew.
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

# A piece of a body. If a long body begins in the same read as its head, the first piece is a view of that read.
Data = bytes | memoryview
Header = tuple[bytes, bytes]
Headers = Sequence[Header]


# Without this header nginx collects an answer in its buffers, and a stream arrives in large pieces.
_UNBUFFERED = (b"x-accel-buffering", b"no")
_JSON_LINES = frozenset(
    {b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines"}
)


class StreamFormat(Enum):
    """The framing of a body. The relay uses it to add events."""

    OPAQUE = auto()  # no stream, or compressed: nothing can be added
    EVENTS = auto()  # text/event-stream
    JSON_LINES = auto()  # a document a line, as Ollama streams


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """``headers`` are in lower case, without those of one hop. ``lines`` are the ones that a caller gets."""

    status: int
    headers: Headers
    lines: bytes = field(init=False)
    stream: StreamFormat = field(init=False)

    def __post_init__(self) -> None:
        passed = [header for header in self.headers if not is_gateways_own(header[0])]
        format_, coded = _stream_format(self.headers)
        if format_ is not StreamFormat.OPAQUE:
            passed = [header for header in passed if header[0] != _UNBUFFERED[0]]
            passed.append(_UNBUFFERED)
        object.__setattr__(self, "lines", b"".join([b"%b: %b\r\n" % header for header in passed]))
        object.__setattr__(self, "stream", StreamFormat.OPAQUE if coded else format_)


def _stream_format(headers: Headers) -> tuple[StreamFormat, bool]:
    """The format that the content type names, and whether the body is compressed."""
    kind, coding = b"", b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding":
            coding = value.strip().lower()
    coded = coding not in (b"", b"identity")
    if kind == b"text/event-stream":
        return StreamFormat.EVENTS, coded
    return StreamFormat.JSON_LINES if kind in _JSON_LINES else StreamFormat.OPAQUE, coded
