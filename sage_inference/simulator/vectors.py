"""Embeddings as sums of hashed words: equal for equal texts, and similar for texts with common words.

A word's vector comes from a hash of model and word. All lanes of a vector are kept in one big integer, so that
each word costs one addition instead of a loop over the dimensions.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache

_WORD = re.compile(r"\w+")
_LANE = 4  # bytes; a lane overflows after 2**24 words of the greatest weight
_MIDDLE = 127.5
_WORD_WEIGHT, _COMMON_WORD_WEIGHT, _TEXT_WEIGHT = 4, 1, 1
_COMMON_WORDS = frozenset(
    "a an and are as at be by for from has have how i in is it of on or that the this to was with you".split()  # noqa: SIM905
)


def embed(model: str, text: str, dimension: int) -> bytes:
    """A vector of length 1 as little-endian float32. It depends only on model and text."""
    total = _lanes(f"{model}\x00text\x00{text}", dimension) * _TEXT_WEIGHT
    weights = _TEXT_WEIGHT
    for word in _WORD.findall(text.lower()):
        weight = _COMMON_WORD_WEIGHT if word in _COMMON_WORDS else _WORD_WEIGHT
        total += _lanes(f"{model}\x00{word}", dimension) * weight
        weights += weight
    sums = struct.unpack(f"<{dimension}I", total.to_bytes(dimension * _LANE, "little"))
    middle = _MIDDLE * weights
    return normalized([value - middle for value in sums])


def normalized(values: list[float]) -> bytes:
    """``values`` scaled to length 1, as little-endian float32."""
    length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
    return struct.pack(f"<{len(values)}f", *[value / length for value in values])


def floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def as_base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode("ascii")


def cosine(left: bytes, right: bytes) -> float:
    """The cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(floats(left), floats(right), strict=True))


@lru_cache(maxsize=8192)
def _lanes(key: str, dimension: int) -> int:
    noise = hashlib.shake_128(key.encode("utf-8", "surrogatepass")).digest(dimension)
    lanes = bytearray(dimension * _LANE)
    lanes[::_LANE] = noise
    return int.from_bytes(lanes, "little")
