"""The last bytes of a stream that breaks off: an error that its reader finds, whatever was sent before."""

from __future__ import annotations

import re

from sage_inference.gateway.error_formats import ErrorFormat, encode
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.truncated_json import completion, missing_bytes
from sage_inference.wire.message import StreamFormat

# Lines of event streams end with LF, CRLF or CR (HTML standard, "Server-sent events").
_LINE_END = re.compile(rb"\r\n|\n|\r")
_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_DATA = re.compile(rb"data(?:: ?|$)")


def last_words(
    stream: StreamFormat,
    format_: ErrorFormat,
    error: ApiError,
    request_id: bytes,
    sent: bytes,
    from_start: bool,
) -> bytes:
    """The bytes that report ``error`` before the connection closes; none if any byte would be taken for content.

    ``sent`` is the end of the body, or all of it if ``from_start``. An event that was sent in part is completed so
    that it reports the error, too. A reader parses that event first, and would fail at it without seeing the reason.
    """
    if stream is StreamFormat.OPAQUE:
        return b""
    document = encode(format_.event(error, request_id, sent))
    if stream is StreamFormat.JSON_LINES:
        return _end_of_line(sent, from_start, document[1:-1]) + document + b"\n"
    name = b"event: %b\n" % format_.event_name if format_.event_name else b""
    return _end_of_event(sent, from_start, name, document[1:-1]) + b"%bdata: %b\n\n" % (name, document)


def _end_of_line(sent: bytes, from_start: bool, members: bytes) -> bytes:
    begin = sent.rfind(b"\n") + 1
    line = sent[begin:]
    if not line.strip():
        return b""
    rest = completion(line, members) if begin or from_start else None
    return (missing_bytes(line) if rest is None else rest) + b"\n"


def _end_of_event(sent: bytes, from_start: bool, name: bytes, members: bytes) -> bytes:
    """The bytes that complete the last event of ``sent``; none if that is complete."""
    begin = max((end.end() for end in _EVENT_END.finditer(sent)), default=0)
    event = sent[begin:].lstrip(b"\r\n")
    if not event:
        return b""
    *lines, last = _LINE_END.split(event)
    in_data = _DATA.match(last)
    texts = [line[found.end() :] for line in lines if (found := _DATA.match(line))]
    if in_data:
        texts.append(last[in_data.end() :])
    rest = completion(b"\n".join(texts), members) if begin or from_start else None
    blank = b"\n\n" if last or not event.endswith(b"\n") else b"\n"
    if rest is None:
        return missing_bytes(last) + blank
    if not in_data:
        rest = missing_bytes(last) + (b"\n" if last else b"") + b"data: " + rest
    elif last == b"data":
        rest = b": " + rest
    return rest + b"\n" + name + b"\n"
