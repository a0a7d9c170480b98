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
_MOST_ENDS = 64
_deltas: dict[bytes, tuple[bytes, bytes]] = {}  # by end


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
    end = piece[piece.rfind(_FINISH) :]
    if not end.startswith(_NULLS) or not end.endswith(_EVENT_END) or b'"delta"' in end or b'"text"' in end:
        return b""
    return end + CRLF if b'"choices"' in piece and _only_adds_text(text, end) else b""


def _only_adds_text(text: bytes, end: bytes) -> bool:
    """Whether ``text`` has whole events alone, each with one choice, whose finish reason is null as in ``end``."""
    # One choice in each event: among several the last could hide that another has ended.
    deltas = text.count(_NULLS[0] if end.startswith(_NULLS[0]) else _NULLS[1])
    if deltas != text.count(_FINISH) or deltas != text.count(_EVENT_END):
        return False
    # ``find``, because ``in`` takes half as long again.
    return text.find(b'"error') < 0 and text.find(b'"usage":{') < 0 and text.find(b'"usage": {') < 0


def find_delta(pieces: list[Data]) -> tuple[bytes, bytes] | None:
    """The end that the last of these chunks has in common with all deltas of its stream, and a delta as a chunk.

    None if there is no such end. All streams of an engine share these two objects.
    """
    last: bytes = pieces[-1]  # type: ignore[assignment]
    known = _deltas.get(last[last.rfind(_FINISH) :])
    if known is not None and _only_adds_text(b"".join(pieces), known[0]):
        return known  # most streams begin as others did
    end = delta_end(text_of([last], True), text_of(pieces, True))
    if not end:
        return None
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
