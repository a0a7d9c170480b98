"""Reads bodies that msgspec refuses and engines accept: half surrogate pairs, NaN, a byte order mark.

Python's own reader takes them too, but a hundred times slower, and the sender chooses what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sage_inference.requests.rejection import Reason, Rejection

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_BOM = b"\xef\xbb\xbf"
# Halves of a pair without the other one, as in a text that was cut in the middle of a pair. Each takes 0.5 us.
# The literal begin lets the search pass over everything that is no escape.
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_MOST_HALVES = 4096
_MOST_SURROGATES = 16384  # escaped, in pairs or not; each takes 0.3 us
_NUMBERS = ((b"NaN", b"0.0"), (b"Infinity", b"1e999999"))
_MOST_WORDS = 16384  # that look like such numbers, also in texts; each takes 0.5 us
# Escapes that would be mistaken for the end of a text, or for the begin of another escape. JSON has no zero bytes.
_HIDDEN = ((b"\\\\", b"\0_"), (b'\\"', b"\0'"))

_REASONS = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """The body as ``decode`` reads it, or a mended copy if it must. Raises ``Rejection`` for a body that is no JSON.

    The caller handles ``msgspec.ValidationError``: then the body is JSON of another shape.
    """
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except UNREADABLE as error:
        return decoded_mended(decode, body, error)


def decoded_mended(decode: Callable[[bytes], T], body: bytes, error: Exception) -> T:
    """A mended copy as ``decode`` reads it. With the body itself it raised ``error``, one of ``UNREADABLE``.

    Raises as ``decoded`` does.
    """
    copy = _mended(body)
    if copy is not None:
        try:
            return decode(copy)
        except msgspec.ValidationError:
            raise
        except UNREADABLE:
            pass
    # An error's text may quote the caller's data; msgspec's positions do not.
    reason = _REASONS.get(type(error)) or str(error)
    raise Rejection(Reason.BAD_REQUEST, f"the body is not JSON: {reason}") from None


def _mended(body: bytes) -> bytes | None:
    """A copy with replacement characters for half pairs and zeros for NaN; None if there is nothing to mend.

    Nothing else differs. Engines read the body itself, so the gateway must not read another text or id.
    """
    copy = body.removeprefix(_BOM)
    surrogates = copy.count(b"\\ud") + copy.count(b"\\uD")
    if surrogates > _MOST_SURROGATES or b"\0" in copy:
        return None
    words = [(word, number) for word, number in _NUMBERS if word in copy]
    if words or surrogates:
        for escape, hidden in _HIDDEN:
            copy = copy.replace(escape, hidden)
        for word, number in words:
            copy = _replaced(copy, word, number)
        if surrogates:
            copy = _HALF.sub(rb"\\ufffd", copy, _MOST_HALVES)
        if b"\0" in copy:
            for escape, hidden in _HIDDEN:
                copy = copy.replace(hidden, escape)
    return None if copy is body else copy


def _replaced(body: bytes, word: bytes, number: bytes) -> bytes:
    """The body with ``number`` for ``word`` outside of texts. Each of its quotes begins or ends a text."""
    parts: list[bytes] = []
    begin = quotes = 0
    for _ in range(_MOST_WORDS):
        end = body.find(word, begin)
        if end < 0:
            break
        quotes += body.count(b'"', begin, end)
        parts += (body[begin:end], word if quotes % 2 else number)
        begin = end + len(word)
    return b"".join([*parts, body[begin:]])
