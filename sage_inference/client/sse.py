"""Parses server-sent events from bytes in pieces of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """An event. ``name`` is empty without an ``event:`` line."""

    data: bytes
    name: bytes = b""


class EventReader:
    """Takes bytes and returns the events that they complete.

    Lines end with LF, CR or CRLF. A byte order mark before a line is dropped. The standard allows one at the
    beginning of the stream, and with it the first event would be lost without an error. ``on_comment`` gets the
    comments, which are no part of events.
    """

    def __init__(self, on_comment: Callable[[bytes], None] | None = None) -> None:
        self._on_comment = on_comment
        self._line = bytearray()
        self._after_cr = False
        self._data: list[bytes] = []
        self._name = b""

    def feed(self, piece: bytes) -> list[Event]:
        if self._after_cr and piece.startswith(b"\n"):  # the second half of a CRLF
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *lines = piece.split(b"\n")
        self._line += first
        if not lines:
            return []
        lines.insert(0, bytes(self._line))
        self._line = bytearray(lines.pop())
        return [event for line in lines if (event := self._read(line)) is not None]

    def finish(self) -> Event | None:
        """The last event if no empty line has ended it. Its data may be cut."""
        line = bytes(self._line)
        self._line.clear()
        if line:
            self._read(line)
        return self._read(b"")

    def _read(self, line: bytes) -> Event | None:
        line = line.removeprefix(_BOM)
        if not line:
            data, name = self._data, self._name
            self._data, self._name = [], b""
            return Event(b"\n".join(data), name) if data else None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif not field and self._on_comment is not None:
            self._on_comment(value)
        return None
