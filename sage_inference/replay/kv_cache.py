"""An engine's KV memory: blocks that sequences share, tokens of their own, and what is kept for later."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KVCache:
    """At most ``tokens`` in all; blocks that nobody uses stay until room is needed, least recently used out first.

    ``private`` counts tokens that no block holds: parts of prompts still to be computed, ends, outputs.
    """

    def __init__(self, tokens: int, block_tokens: int) -> None:
        self.tokens = tokens
        self.block_tokens = block_tokens
        self.private = 0
        self._users: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()

    @property
    def used(self) -> int:
        return self.private + len(self._users) * self.block_tokens

    @property
    def kept(self) -> int:
        """Tokens of blocks that nobody uses now."""
        return len(self._unused) * self.block_tokens

    def leading(self, blocks: Sequence[int], most: int) -> int:
        """How many of the first ``most`` blocks are here, from the first on."""
        users, unused = self._users, self._unused
        for number, block in enumerate(blocks[:most]):
            if block not in users and block not in unused:
                return number
        return min(most, len(blocks))

    def fits(self, blocks: Sequence[int], private: int) -> bool:
        """Whether ``blocks`` (all here) and ``private`` tokens can be used beside what is."""
        waking = sum(1 for block in blocks if block in self._unused)
        return self.used + private + waking * self.block_tokens <= self.tokens

    def use(self, blocks: Sequence[int]) -> None:
        """One more user of each block, here before or not."""
        users, unused = self._users, self._unused
        for block in blocks:
            if block in users:
                users[block] += 1
            else:
                unused.pop(block, None)
                users[block] = 1

    def leave(self, blocks: Sequence[int]) -> None:
        """One user less of each; the last block of a prefix goes before its first."""
        users, unused = self._users, self._unused
        for block in reversed(blocks):
            if users[block] > 1:
                users[block] -= 1
            else:
                del users[block]
                unused[block] = None

    def trim(self) -> None:
        """Forget unused blocks until all fits."""
        surplus = self.used + self.kept - self.tokens
        while surplus > 0 and self._unused:
            self._unused.popitem(last=False)
            surplus -= self.block_tokens
