"""An engine's KV memory: blocks that sequences share, private tokens, and unused blocks kept as a cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KVCache:
    """Holds at most ``tokens``. Unused blocks stay until memory is needed; the least recently used go first.

    ``private`` counts tokens outside blocks: parts of prompts not computed yet, ends of prompts, outputs.
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
        """Tokens of blocks that no sequence uses now."""
        return len(self._unused) * self.block_tokens

    def leading(self, blocks: Sequence[int], most: int) -> int:
        """The number of leading blocks, at most ``most``, that are in memory."""
        users, unused = self._users, self._unused
        for number, block in enumerate(blocks[:most]):
            if block not in users and block not in unused:
                return number
        return min(most, len(blocks))

    def fits(self, blocks: Sequence[int], private: int) -> bool:
        """Whether ``blocks`` (all in memory) and ``private`` tokens fit beside those in use."""
        waking = sum(1 for block in blocks if block in self._unused)
        return self.used + private + waking * self.block_tokens <= self.tokens

    def use(self, blocks: Sequence[int]) -> None:
        """Add a user to each block, which need not be in memory yet."""
        users, unused = self._users, self._unused
        for block in blocks:
            if block in users:
                users[block] += 1
            else:
                unused.pop(block, None)
                users[block] = 1

    def leave(self, blocks: Sequence[int]) -> None:
        """Remove a user from each block. The last block of a prefix is evicted before its first."""
        users, unused = self._users, self._unused
        for block in reversed(blocks):
            if users[block] > 1:
                users[block] -= 1
            else:
                del users[block]
                unused[block] = None

    def trim(self) -> None:
        """Evict unused blocks until the rest fits."""
        surplus = self.used + self.kept - self.tokens
        while surplus > 0 and self._unused:
            self._unused.popitem(last=False)
            surplus -= self.block_tokens
