"""Reads the vectors in an answer, in the order of the texts. Base64 avoids a conversion from JSON numbers."""

from __future__ import annotations

import binascii
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_inference.client.answers import Answer, document, unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vector = bytes | list[float]  # little-endian float32, or numbers if the server does not support base64
_BIG_ENDIAN = sys.byteorder == "big"  # of this machine


def embeddings(answer: Answer, count: int) -> tuple[list[Vector], dict[str, Any]]:
    """The ``count`` vectors of an answer, and its document. Raises ``EngineError`` if one is missing."""
    found = document(answer)
    vectors: list[Vector | None] = [None] * count
    try:
        for entry in found["data"]:
            vectors[entry["index"]] = _vector(entry["embedding"])
    except (KeyError, TypeError, IndexError, ValueError, binascii.Error):
        raise unreadable(answer, "has no embeddings that can be read") from None
    complete = [vector for vector in vectors if vector is not None]
    if len(complete) != count:
        raise unreadable(answer, f"has {len(complete)} embeddings for {count} texts")
    return complete, found


def _vector(value: Any) -> Vector:
    if isinstance(value, str):
        packed = binascii.a2b_base64(value)
        if len(packed) % 4:
            raise ValueError("a part of a number is missing")
        return packed
    return [float(number) for number in value]


def as_lists(vectors: Sequence[Vector]) -> list[list[float]]:
    return [_floats(vector) if isinstance(vector, bytes) else vector for vector in vectors]


def _floats(vector: bytes) -> list[float]:
    numbers = array("f", vector)  # struct would make a tuple first: 7 µs instead of 4 for 384 numbers
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers.tolist()


def as_array(vectors: Sequence[Vector]) -> NDArray[np.float32]:
    """An array with one row per vector. Raises ``ImportError`` if numpy is not installed."""
    try:
        import numpy as np
    except ImportError:
        raise ImportError("as_numpy=True needs numpy: pip install 'sage-inference[numpy]'") from None
    if not vectors:
        return np.empty((0, 0), dtype=np.float32)
    if all(isinstance(vector, bytes) for vector in vectors):
        flat = np.frombuffer(b"".join(vectors), dtype="<f4")  # type: ignore[arg-type]
        return flat.reshape(len(vectors), -1).astype(np.float32, copy=not flat.flags.writeable)
    return np.asarray(as_lists(vectors), dtype=np.float32)
