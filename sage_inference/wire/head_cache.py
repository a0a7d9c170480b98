"""A cache of heads that were parsed before.

Heads repeat: a caller sends the same bytes thousands of times, and an engine answers with the same, except for the
digits of a length. The meaning of a head that was parsed and checked is kept under the bytes before these digits.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

T = TypeVar("T")
# The bytes before the digits of the length, where the digits start and where those of the last length stopped, the rest
# of the head, where the last body began, and the meaning.
_Known = tuple[bytes, int, int, bytes, int, T]

LONGEST = 4096  # bytes of a head: longer ones do not repeat
_MOST_DIGITS = 15
_NONE: _Known[Any] = b"\0", 0, 0, b"\0", 0, None  # no head begins with it


class HeadCache(Generic[T]):
    """At most ``most`` heads. A full cache is emptied: the heads in use are back soon, and no order has to be kept."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, _Known[T]] = {}  # by the bytes before the length
        self._last: _Known[T] = _NONE

    def get(self, data: bytes) -> tuple[T, int, int] | None:
        """The meaning of the head that ``data`` begins with, its Content-Length, and where its body begins.

        None if it must be parsed: only the digits of the length may differ from a head that was ``put``.
        """
        before, start, stop, rest, body, meaning = self._last
        if not data.startswith(before):  # mostly it begins like the last one
            start = data.find(b"\r\nContent-Length: ", 0, LONGEST)
            if start < 0:
                start = data.find(b"\r\ncontent-length: ", 0, LONGEST)
            known = self._known.get(data[: start + 18])
            if known is None:
                return None
            self._last = known
            before, start, stop, rest, body, meaning = known
        if not data.startswith(rest, stop):  # mostly the length has as many digits as the last one
            stop = data.find(rest, start, start + _MOST_DIGITS + len(rest))
            if stop < 0:
                return None
            body = stop + len(rest)
            self._known[before] = self._last = before, start, stop, rest, body, meaning
        digits = data[start:stop]
        if digits.isdigit():
            return meaning, int(digits), body
        return None

    def put(self, data: bytes, length: int, meaning: T) -> bool:
        """Keep the head that ``data`` begins with, and that has this Content-Length. False if it has another form."""
        end = data.find(b"\r\n\r\n", 0, LONGEST)
        start = data[:end].lower().find(b"\r\ncontent-length: ") + 18
        if end < 0 or start < 18:
            return False
        stop = data.find(b"\r", start, end + 1)
        if data[start:stop] != b"%d" % length or stop - start > _MOST_DIGITS:
            return False
        if len(self._known) >= self._most:
            self._known.clear()
        before = data[:start]
        rest = data[stop : end + 4]
        known = before, start, stop, rest, end + 4, meaning
        self._known[before] = self._last = known
        return True
