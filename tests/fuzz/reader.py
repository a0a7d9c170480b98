"""The independent reader: what h11 says that bytes mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11

_MAX = 1 << 20
_WIDE = re.compile(rb"\A([^\s]+) +([^\s]+) +(?=HTTP/)")  # more spaces than one, which is tolerable
_STATUS_LINE = re.compile(rb"[\r\n]*(HTTP/1\.[01] (1?)\d{2,3})[^\r\n]*(?=\r\n)")

Headers = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """A request or a response, as far as it was read."""

    method: bytes = b""
    target: bytes = b""
    status: int = 0
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    reusable: bool = False  # the connection may carry another after it

    def header(self, name: bytes) -> bytes | None:
        return next((value for known, value in self.headers if known == name), None)


@dataclass
class Reading:
    """All messages in some bytes, the last one maybe incomplete; ``error`` is why reading stopped early."""

    messages: list[Message] = field(default_factory=list)
    error: str = ""
    rest: bytes = b""

    @property
    def whole(self) -> list[Message]:
        return [message for message in self.messages if message.complete]


def read_requests(data: bytes) -> Reading:
    reading = Reading(rest=data)
    while True:
        # Empty lines before a request line are to be ignored (RFC 9112 section 2.2); h11 doesn't.
        reading.rest = reading.rest.lstrip(b"\r\n")
        reading.rest = _WIDE.sub(rb"\1 \2 ", reading.rest, count=1)
        if not reading.rest:
            return reading
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX)
        connection.receive_data(reading.rest)
        message = _read(connection, reading)
        if not message.complete:
            return reading
        connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
        connection.send(h11.EndOfMessage())
        message.reusable = connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        if not message.reusable:
            return reading


def read_responses(data: bytes, methods: list[bytes], closed: bool) -> Reading:
    """``methods`` of the requests answered, GET from where they end; ``closed``: no more bytes will come."""
    reading = Reading(rest=_plain_status_lines(data))
    number = 0
    while reading.rest:
        method = methods[number] if number < len(methods) else b"GET"
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX)
        connection.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"h")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(reading.rest)
        if closed:
            connection.receive_data(b"")
        message = _read(connection, reading)
        message.reusable = connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        if not message.complete:
            break
        number += 1
    return reading


def _plain_status_lines(data: bytes) -> bytes:
    """Without reason phrases, and without empty lines before a status line: h11 is strict there, and nobody cares."""
    done = 0
    while (match := _STATUS_LINE.match(data, done)) is not None:
        data = data[:done] + match[1] + b" " + data[match.end() :]
        end = data.find(b"\r\n\r\n", done)
        if not match[2] or end < 0:
            break
        done = end + 4
    return data


def _read(connection: h11.Connection, reading: Reading) -> Message:
    """One message off ``reading.rest``; interim answers are passed over."""
    message = Message()
    reading.messages.append(message)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                message.method, message.target = event.method, event.target
                message.headers = list(event.headers)
            elif isinstance(event, h11.Response):
                message.status = event.status_code
                message.headers = list(event.headers)
            elif isinstance(event, h11.Data):
                message.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                message.complete = True
                reading.rest = connection.trailing_data[0]
                return message
            elif not isinstance(event, h11.InformationalResponse):
                break  # h11 wants more, or the connection ended
    except h11.RemoteProtocolError as error:
        if "peer unexpectedly closed" not in str(error) and "ConnectionClosed" not in str(error):
            reading.error = str(error)  # else it is just incomplete
    if not (message.method or message.status):
        reading.messages.pop()
    return message
