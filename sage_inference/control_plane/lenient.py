"""A reading of bodies that msgspec refuses and engines take: half surrogate pairs, NaN, a byte order mark.

Python's own reader takes them too, but a hundred times slower, and the sender chooses what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sage_inference.control_plane.refusal import Refusal, Why

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_BOM = b"\xef\xbb\xbf"
# Halves of a pair without the other one. A text that was cut in the midst of a pair has one; each takes 0.5 us.
# The literal begin lets the search pass over all that is no escape.
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_MOST_HALVES = 4096
_MOST_SURROGATES = 16384  # escaped, in pairs or not: to look at one takes 0.3 us

_REASONS = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """What ``decode`` makes of the body, if need be of a mended copy. Raises ``Refusal`` for what is not JSON.

    ``msgspec.ValidationError`` is the caller's: the body is JSON, but not as it must be.
    """
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except UNREADABLE as error:
        return decoded_mended(decode, body, error)


def decoded_mended(decode: Callable[[bytes], T], body: bytes, error: Exception) -> T:
    """What ``decode`` makes of a mended copy, after it raised ``error``, one of ``UNREADABLE``, for the body.

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
    # A text may hold the caller's data; msgspec's positions do not.
    reason = _REASONS.get(type(error)) or str(error)
    raise Refusal(Why.BAD_REQUEST, f"the body is not JSON: {reason}") from None


def _mended(body: bytes) -> bytes | None:
    """A copy with replacement characters for half pairs and zeros for NaN; None where there is nothing to mend."""
    copy = body.removeprefix(_BOM)
    if b"NaN" in copy or b"Infinity" in copy:
        copy = copy.replace(b"NaN", b"0.0").replace(b"Infinity", b"1e999999")
    if b"\\ud" in copy or b"\\uD" in copy:
        if copy.count(b"\\ud") + copy.count(b"\\uD") > _MOST_SURROGATES:
            return None
        # Escaped backslashes go first: behind one of them "ud800" is plain text.
        copy = _HALF.sub(rb"\\ufffd", copy.replace(b"\\\\", b"__"), _MOST_HALVES)
    return None if copy is body else copy
