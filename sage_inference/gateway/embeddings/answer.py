"""A caller's answer, in the shape of the route that was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sage_inference.engines.embeddings.vectors import as_base64, as_floats
from sage_inference.engines.embeddings.wire import NATIVE_ROUTE

PIECE_BYTES = 1 << 18


def pieces(route: str, model: str, vectors: Sequence[bytes], tokens: int, *, base64: bool) -> list[bytes]:
    """The body, in pieces that joined make it."""
    if route == NATIVE_ROUTE:
        return list(_joined(b"[", [as_floats(vector) for vector in vectors], b"]"))
    formed = map(as_base64 if base64 else as_floats, vectors)
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (place, vector)
        for place, vector in enumerate(formed)
    ]
    end = b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        msgspec.json.encode(model),
        tokens,
        tokens,
    )
    return list(_joined(b'{"object":"list","data":[', items, end))


def _joined(start: bytes, items: list[bytes], end: bytes) -> Iterator[bytes]:
    """Pieces of about ``PIECE_BYTES``, so that a large answer is not copied as a whole."""
    group: list[bytes] = []
    size = 0
    lead = start
    for item in items:
        group.append(item)
        size += len(item)
        if size >= PIECE_BYTES:
            yield lead + b",".join(group)
            lead, group, size = b",", [], 0
    yield (lead if group or lead == start else b"") + b",".join(group) + end
