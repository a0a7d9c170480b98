"""The last pieces of a body, kept because its end shows its usage and its outcome.

The pieces are in a list of the writer's, each as it was written: a ``chunked`` body's with its size and its CRLFs.
"""

from __future__ import annotations

from sage_inference.wire.chunks import CRLF, chunk
from sage_inference.wire.message import Data

TAIL_BYTES = 1024  # bytes of a body that are kept at least: its last events fit into it
MOST_PIECES = 16  # a tail of more pieces is joined: an object for each byte would take forty times its size
_NULLS = (b'"finish_reason":null', b'"finish_reason": null')
_FINISH, _EVENT_END = b'"finish_reason"', b"\n\n"
_MORE_THAN_TEXT = (b'"usage":{', b'"usage": {', b'"error')
_TEXTS = (b'"delta"', b'"text"')
_MOST_ENDS = 64
_deltas: dict[bytes, tuple[bytes, bytes]] = {}  # by end: see ``shared``


def text_of(pieces: list[Data], chunked: bool) -> bytes:
    """The bytes of the pieces, without the framing of chunks."""
    if chunked:  # each piece is one chunk: its size, its data, CRLF
        return b"".join([piece[piece.find(b"\n") + 1 : -2] for piece in pieces])  # type: ignore[union-attr]
    return b"".join(pieces)


def trim(pieces: list[Data], chunked: bool) -> bool:
    """Drop the pieces before the last ``TAIL_BYTES``. Returns whether any byte was dropped."""
    size, first = 0, len(pieces)
    while first and size < TAIL_BYTES:
        first -= 1
        piece = pieces[first]
        size += len(piece)
        if chunked:
            size -= piece.find(b"\n") + 3  # type: ignore[union-attr]
    del pieces[:first]
    if len(pieces) <= MOST_PIECES:
        return first > 0
    text = text_of(pieces, chunked)
    last = text[-TAIL_BYTES:]
    pieces[:] = [chunk(last) if chunked else last]
    return first > 0 or len(text) > TAIL_BYTES


def delta_end(piece: bytes, text: bytes) -> bytes:
    """The end that ``piece``, as a chunk, has in common with all events of its stream that only add text to it.

    ``text`` is the end of the stream, ``piece`` included. Returns nothing if ``piece`` is no whole event of that
    kind, or if ``text`` has more than such events. The end begins at the finish reason, which is null. A text cannot
    contain it, because its quotes would be escaped.
    """
    null = _NULLS[0] if _NULLS[0] in piece else _NULLS[1]
    at = piece.rfind(null)
    end = piece[at:]
    if at < 0 or not end.endswith(_EVENT_END) or any(mark in end for mark in _TEXTS):
        return b""
    # One choice in each event: among several the last could hide that another has ended.
    deltas = text.count(null)
    if deltas != text.count(_FINISH) or deltas != text.count(_EVENT_END) or b'"choices"' not in piece:
        return b""
    return b"" if any(mark in text for mark in _MORE_THAN_TEXT) else end + CRLF


def shared(end: bytes) -> tuple[bytes, bytes]:
    """The end, and a chunk with the shortest event that ends so. All streams of an engine share these two objects."""
    found = _deltas.get(end)
    if found is None:
        found = end, chunk(b'data: {"choices":[{' + end[: -len(CRLF)])
        if len(_deltas) < _MOST_ENDS:
            _deltas[end] = found
    return found


def are_deltas(piece: Data, delta: bytes) -> bool:
    """Whether a short piece has nothing but events that only add text, the last with the end of the chunk ``delta``."""
    if len(piece) >= TAIL_BYTES:
        return False
    text = bytes(piece)
    end = delta_end(text, text)
    return end != b"" and delta.endswith(end)
