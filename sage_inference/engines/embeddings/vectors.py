"""A vector as JSON in its two forms: an array of numbers, and base64 of little-endian float32.

To answer with 32 vectors of 1,024 numbers costs 0.5 ms of CPU where their arrays are cut out of the engine's
answer unread, 0.04 ms for base64, 1.8 ms from one form to the other; reading and printing numbers costs
2.2 ms with msgspec and 19 ms with json (``python -m tests.bench vectors``). So a form is changed only where
callers of one call differ in it. numpy with orjson would print base64 as numbers in 1.1 ms: not worth two
dependencies.
"""

from __future__ import annotations

import binascii
import struct

import msgspec

Vector = bytes | memoryview  # a view into an engine's answer is not copied before it is written

_floats = msgspec.json.Decoder(list[float]).decode
_QUOTE = ord('"')
_encode = msgspec.json.Encoder().encode


def is_base64(vector: Vector) -> bool:
    return vector[0] == _QUOTE


def as_floats(vector: Vector) -> Vector:
    """As an array. Each number is printed with the digits that give back the same float32, read as double."""
    if not is_base64(vector):
        return vector
    packed = binascii.a2b_base64(vector)
    return _encode(struct.unpack(f"<{len(packed) // 4}f", packed))


def as_base64(vector: Vector) -> Vector:
    """As base64. Numbers are rounded to the nearest float32. Raises ``ValueError`` for what is no vector."""
    if is_base64(vector):
        return vector
    numbers = _floats(vector)
    try:
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        raise ValueError("a number is too large for float32") from None
    return b'"%b"' % binascii.b2a_base64(packed, newline=False)
