"""A vector as JSON in its two forms: an array of numbers, and base64 of little-endian float32.

Of 32 vectors of 1,024 numbers, cutting arrays out of an answer unread costs 0.46 ms of CPU, cutting base64
out 0.03 ms, printing base64 as numbers 1.7 ms, reading numbers into base64 1.7 ms; reading and printing
numbers 2.2 ms with msgspec and 19 ms with json (``python -m tests.bench vectors``). So a form is changed
only where callers of one call differ in it.
"""

from __future__ import annotations

import binascii
import struct

import msgspec

_floats = msgspec.json.Decoder(list[float]).decode
_encode = msgspec.json.Encoder().encode


def is_base64(vector: bytes) -> bool:
    return vector[:1] == b'"'


def as_floats(vector: bytes) -> bytes:
    """As an array. Each number is printed with the digits that give back the same float32, read as double."""
    if not is_base64(vector):
        return vector
    packed = binascii.a2b_base64(vector)
    return _encode(struct.unpack(f"<{len(packed) // 4}f", packed))


def as_base64(vector: bytes) -> bytes:
    """As base64. Numbers are rounded to the nearest float32. Raises ``ValueError`` for what is no vector."""
    if is_base64(vector):
        return vector
    numbers = _floats(vector)
    try:
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        raise ValueError("a number is too large for float32") from None
    return b'"%b"' % binascii.b2a_base64(packed, newline=False)
