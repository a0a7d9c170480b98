"""How a read that is just one chunk begins, by how long it is (RFC 9112 section 7.1)."""

from __future__ import annotations

_LONGEST = 16384  # longer reads are seldom one chunk: none of them begins so


class _ChunkHeads(dict[int, tuple[bytes, ...]]):
    """Of a length, the size lines that make it one whole chunk, in small and in capital digits.

    No line, where no chunk has that length: ``bytes.startswith`` takes a tuple, and no bytes begin with one of none.
    """

    def __missing__(self, length: int) -> tuple[bytes, ...]:
        if length > _LONGEST:
            return ()
        heads = {b"%x\r\n" % size for size in range(max(1, length - 8), length - 4) if _whole(size) == length}
        found = self[length] = tuple({*heads, *(head.upper() for head in heads)})
        return found


def _whole(size: int) -> int:
    """The length of a chunk of this size, framing and all."""
    return len(b"%x" % size) + 2 + size + 2


CHUNK_HEADS = _ChunkHeads()
