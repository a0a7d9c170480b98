"""A vector as JSON in its two forms: an array of numbers, and base64 of little-endian float32.

An answer with 32 vectors of 1,024 numbers costs 0.5 ms of CPU if their arrays are cut out of the engine's answer
unparsed, 0.04 ms for base64, and 1.8 ms from one form to the other. To parse and print the numbers costs 2.2 ms with
msgspec and 19 ms with json (``python -m tests.bench vectors``). Therefore the form is changed only if callers of one
call asked for different ones. numpy with orjson would print base64 as numbers in 1.1 ms, which is not worth two
dependencies.
"""

from __future__ import annotations

import binascii
import math
import struct

import msgspec

Vector = bytes | memoryview  # a view into an engine's answer is not copied before it is written

_floats = msgspec.json.Decoder(list[float]).decode
_floats_or_null = msgspec.json.Decoder(list[float | None]).decode
_bytes = msgspec.json.Decoder(bytes).decode
_QUOTE = ord('"')
_encode = msgspec.json.Encoder().encode


class VectorError(ValueError):
    """A vector cannot be converted to the other form. The message has the reason."""


def is_base64(vector: Vector) -> bool:
    return vector[0] == _QUOTE


def as_floats(vector: Vector) -> Vector:
    """The vector as an array of numbers. Raises ``VectorError``.

    Each number has all digits of the double that equals its float32. NaN and infinity, which JSON lacks, become null.
    """
    if not is_base64(vector):
        return vector
    packed = packed_bytes(vector)
    return _encode(struct.unpack(f"<{len(packed) // 4}f", packed))


def packed_bytes(vector: Vector) -> bytes:
    """The float32 numbers of a base64 vector. Raises ``VectorError``."""
    try:
        packed = _bytes(vector)
    except (msgspec.DecodeError, ValueError) as error:
        raise VectorError(f"that is no base64: {error}") from None
    if len(packed) % 4:
        raise VectorError(f"whose {len(packed)} bytes are no float32 numbers")
    return packed


def as_base64(vector: Vector) -> Vector:
    """The vector as base64. Numbers are rounded to the nearest float32; null becomes NaN. Raises ``VectorError``."""
    if is_base64(vector):
        return vector
    numbers = _numbers(vector)
    try:
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except OverflowError:
        raise VectorError("with a number too large for float32") from None
    return b'"%b"' % binascii.b2a_base64(packed, newline=False)


def _numbers(vector: Vector) -> list[float]:
    try:
        return _floats(vector)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass  # rare, so the common case does not use the slower decoder
    try:
        # Engines whose JSON has no NaN print it as null.
        return [math.nan if number is None else number for number in _floats_or_null(vector)]
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise VectorError(f"that is no list of numbers: {error}") from None
