"""Chunks of a body, and the first lines of reads that are exactly one (RFC 9112 section 7.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_inference.wire.message import Data

CRLF = b"\r\n"  # behind the size of a chunk, and behind its data
_LONGEST = 16384  # longer reads are seldom one chunk, so they are always parsed


class _ChunkHeads(dict[int, tuple[bytes, ...]]):
    """For a length, the size lines of a chunk that is so long with its framing, in small and in capital digits.

    An empty tuple where no chunk has that length: ``bytes.startswith`` of an empty tuple is False.
    """

    def __missing__(self, length: int) -> tuple[bytes, ...]:
        if length > _LONGEST:
            return ()
        heads = {
            b"%x\r\n" % size for size in range(max(1, length - 8), length - 4) if _framed(size) == length
        }
        found = self[length] = tuple({*heads, *(head.upper() for head in heads)})
        return found


def _framed(size: int) -> int:
    """The length of a chunk of this size with its framing."""
    return len(b"%x" % size) + 2 + size + 2


CHUNK_HEADS = _ChunkHeads()


def chunk(piece: Data) -> bytes:
    """The piece as one chunk. Empty input gives no chunk, because a chunk of size zero would end the body."""
    return b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if piece else b""


def all_end(texts: Iterable[bytes], end: bytes) -> bool:
    """Whether all these texts, each as a chunk, have the end, which includes the CRLF behind a chunk."""
    end = end[: -len(CRLF)]
    for text in texts:  # noqa: SIM110 - the generator of an ``all`` costs as much as the comparisons
        if not text.endswith(end):
            return False
    return True
