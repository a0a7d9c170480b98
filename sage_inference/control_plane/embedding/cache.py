"""Vectors of texts seen before, the least recently used forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

_ENTRY_BYTES = 300  # what an entry costs beside its text and vector


class VectorCache:
    """Bounded in bytes; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._entries: OrderedDict[tuple[Hashable, bytes], tuple[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, merge_queue: Hashable, raw: bytes) -> tuple[bytes, int] | None:
        """The vector and its tokens."""
        if not self._entries:
            return None
        found = self._entries.get((merge_queue, raw))
        if found is not None:
            self._entries.move_to_end((merge_queue, raw))
        return found

    def put(self, merge_queue: Hashable, raw: bytes, vector: bytes | memoryview, tokens: int) -> None:
        key = (merge_queue, raw)
        if not self.max_bytes or key in self._entries:
            return
        kept = bytes(vector)  # not a view, which would keep all of an answer
        self._entries[key] = (kept, tokens)
        self.size += _cost(raw, kept)
        while self.size > self.max_bytes:
            (_, old_raw), (old_vector, _) = self._entries.popitem(last=False)
            self.size -= _cost(old_raw, old_vector)

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0


def _cost(raw: bytes, vector: bytes) -> int:
    return len(raw) + len(vector) + _ENTRY_BYTES
