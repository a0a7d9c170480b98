"""The blocks of prompt tokens that an engine keeps. The least recently used one is evicted first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


def block_keys(pieces: Sequence[str], block_size: int) -> list[int]:
    """One key per full block. A key depends on all blocks before it, so equal keys mean equal prefixes."""
    keys: list[int] = []
    before = 0
    for start in range(0, len(pieces) - block_size + 1, block_size):
        before = hash((before, *pieces[start : start + block_size]))
        keys.append(before)
    return keys


class PrefixCache:
    """Keeps at most ``blocks`` keys."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()

    def leading(self, keys: Sequence[int]) -> int:
        """The number of leading blocks that are kept. They count as used now."""
        for number, key in enumerate(keys):
            if key not in self._kept:
                return number
            self._kept.move_to_end(key)
        return len(keys)

    def keep(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._kept[key] = None
            self._kept.move_to_end(key)
        while len(self._kept) > self._blocks:
            self._kept.popitem(last=False)
