"""A caller's answer, in the shape of the route that was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from sage_inference.engines.embeddings.vectors import Vector, VectorError, as_base64, as_floats
from sage_inference.requests.embedding import NATIVE_ROUTE

PIECE_BYTES = 1 << 18
Part = tuple[bytes, Vector]  # what stands before a vector, and the vector


def pieces(route: str, model: str, vectors: Sequence[Vector], tokens: int, *, base64: bool) -> list[bytes]:
    """The body, in pieces that joined make it. Raises ``VectorError``."""
    try:
        return _pieces(route, model, vectors, tokens, as_base64 if base64 else as_floats)
    except VectorError as error:
        raise VectorError(f"{error} (text {_first_bad(vectors, base64=base64)})") from None


def _first_bad(vectors: Sequence[Vector], *, base64: bool) -> int:
    for place, vector in enumerate(vectors):
        try:
            as_base64(vector) if base64 else as_floats(vector)
        except VectorError:
            return place
    raise AssertionError("none is bad")


def _pieces(
    route: str, model: str, vectors: Sequence[Vector], tokens: int, form: Callable[[Vector], Vector]
) -> list[bytes]:
    if route == NATIVE_ROUTE:
        parts = [(b"," if place else b"[", as_floats(vector)) for place, vector in enumerate(vectors)]
        return list(_joined(parts, b"]"))
    parts = [
        (
            b'%b{"object":"embedding","index":%d,"embedding":' % (b"}," if place else _START, place),
            form(vector),
        )
        for place, vector in enumerate(vectors)
    ]
    end = b'}],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        msgspec.json.encode(model),
        tokens,
        tokens,
    )
    return list(_joined(parts, end))


_START = b'{"object":"list","data":['


def _joined(parts: Sequence[Part], end: bytes) -> Iterator[bytes]:
    """Pieces of about ``PIECE_BYTES``, each made with one copy of its vectors."""
    group: list[Vector] = []
    size = 0
    for part in parts:
        group += part
        size += len(part[1])
        if size >= PIECE_BYTES:
            yield b"".join(group)
            group, size = [], 0
    yield b"".join((*group, end))
