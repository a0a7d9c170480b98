"""The prompts that each instance likely has in its prefix cache, by hashes of the prompts that it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from struct import Struct

from sage_inference.types import NOTHING_CACHED, ExecutionInstance, SchedulingRequest

BLOCK_BYTES = 256  # about 64 tokens
_blocks_of = Struct(f"{BLOCK_BYTES}s").iter_unpack  # faster than slices
_MOST_BLOCKS = 16384  # of one prompt, a million tokens: no other prompt shares a longer prefix
_SLACK = 1 / 32  # of the bound is freed at once: a dict gives up its first entries cheaply only in bulk


def prompt_blocks(prompt: bytes) -> list[int]:
    """Hashes of the prompt's full blocks. Each depends on all before it, so equal hashes are equal prefixes.

    Python's own hash is keyed, with a new key in each process, so a recorded hash does not reveal text.
    """
    before, blocks = 0, []
    count = len(prompt) // BLOCK_BYTES
    if count > _MOST_BLOCKS:
        count = _MOST_BLOCKS
    for block in _blocks_of(prompt[: count * BLOCK_BYTES]):
        before = hash((before, block))
        blocks.append(before)
    return blocks


class _Cached:
    """The blocks of one instance, the least recently used first."""

    __slots__ = ("bit", "blocks")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: dict[int, None] = {}


class PrefixIndex:
    """A map from each block to its holders, a bit for each instance, so that a look-up walks a prompt once.

    Each instance is bounded by its KV cache. The least recently used blocks go first, as in the engine. The blocks of a
    prompt are touched from its end to its start, so a block goes before those that it depends on. Therefore an instance
    that has a block has all before it.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._cached: dict[ExecutionInstance, _Cached] = {}
        self._by_bit: dict[int, ExecutionInstance] = {}

    def match(self, request: SchedulingRequest) -> Mapping[ExecutionInstance, int]:
        """The tokens of the prompt that each instance likely has cached; instances with none are left out."""
        blocks = request.prompt_blocks
        get = self._holders.get
        if not blocks or not (holders := get(blocks[0], 0)):
            return NOTHING_CACHED
        found: dict[ExecutionInstance, int] = {}
        if get(blocks[-1]) == holders:  # an instance that has a block has all before it
            tokens = int(len(blocks) * request.block_tokens)
            if tokens > request.prompt_tokens:
                tokens = request.prompt_tokens
            only = self._by_bit.get(holders)
            if only is not None:
                return {only: tokens}
            self._note(found, holders, tokens)
            return found
        depth = 0
        for block in blocks:
            still = holders & get(block, 0)
            if still != holders:
                self._note(found, holders ^ still, int(depth * request.block_tokens))
                if not still:
                    return found
                holders = still
            depth += 1
        tokens = int(depth * request.block_tokens)
        self._note(found, holders, tokens if tokens < request.prompt_tokens else request.prompt_tokens)
        return found

    def _note(self, found: dict[ExecutionInstance, int], bits: int, tokens: int) -> None:
        """Each of the holders ``bits`` has ``tokens`` of the prompt."""
        instances = self._by_bit
        while bits:
            bit = bits & -bits
            found[instances[bit]] = tokens
            bits ^= bit

    def add(self, instance: ExecutionInstance, request: SchedulingRequest) -> None:
        """The instance was sent this prompt, and will have it cached."""
        cached = self._cached.get(instance) or self._enter(instance)
        blocks, before, bit, holders = cached.blocks, len(cached.blocks), cached.bit, self._holders
        for block in reversed(request.prompt_blocks):
            if block in blocks:
                del blocks[block]
            else:
                holders[block] = holders.get(block, 0) | bit
            blocks[block] = None
        if len(blocks) > before:
            most = instance.kv_tokens / request.block_tokens
            if len(blocks) > most:
                self._evict(cached, len(blocks) - int(most * (1 - _SLACK)))

    def clear(self, instance: ExecutionInstance) -> None:
        """The instance died or left, and its cache is lost."""
        cached = self._cached.pop(instance, None)
        if cached is not None:
            self._evict(cached, len(cached.blocks))
            del self._by_bit[cached.bit]

    def _enter(self, instance: ExecutionInstance) -> _Cached:
        bit = 1
        while bit in self._by_bit:
            bit <<= 1
        self._by_bit[bit] = instance
        cached = self._cached[instance] = _Cached(bit)
        return cached

    def _evict(self, cached: _Cached, count: int) -> None:
        blocks, holders, others = cached.blocks, self._holders, ~cached.bit
        for block in list(islice(blocks, count)):
            del blocks[block]
            if left := holders[block] & others:
                holders[block] = left
            else:
                del holders[block]
