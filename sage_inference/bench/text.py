"""Prompts with a given length in tokens, made of short words that are one token each for nearly every tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

BLOCK_TOKENS = 512
_TAG = 4  # words at the beginning of each prompt, which differ between prompts: 128 ** 4 combinations
_MASK = (1 << 28) - 1

_WORDS = (
    "time year way day man thing woman life child world hand part place case week point water room fact "
    "money month lot right study book eye job word side kind head house page night home door power city "
    "line name team idea body back face level car ball air area bird boat bread chair clay cloud coast "
    "coin corn crowd dance desk dog dust earth farm field fire fish floor food foot form fruit game gate "
    "glass gold grass group hall hat heart hill horse hour ice iron key king lake land leaf light list "
    "map mark meal milk mind moon north note oil paint paper park path plan plant price queen rain ring "
    "river road rock roof root rope rose rule salt sand sea seat seed ship shoe shop show sky"
)
WORDS = _WORDS.split()  # at least 128, because a tag takes 7 bits per word


class Prompts:
    """Cuts prompts from a long text that is made beforehand, so that a prompt costs a copy only.

    Each prompt begins with words of its own, so that no engine has it in its prefix cache. Blocks with equal ids are
    equal texts, which may be in that cache.
    """

    def __init__(self, seed: int, *, filler_tokens: int = 1 << 16) -> None:
        random = Random(seed)  # noqa: S311 - a workload, not a secret
        words = random.choices(WORDS, k=filler_tokens)
        self._seed = seed
        self._tokens = filler_tokens
        self._filler = "".join(f" {word}" for word in words).encode()
        self._ends = [0]
        for word in words:
            self._ends.append(self._ends[-1] + len(word) + 1)

    def unique(self, number: int, tokens: int) -> bytes:
        """The ``number``-th prompt of this seed, in ``tokens`` words."""
        return self._text(number * 2, tokens)

    def shared(self, blocks: Iterable[int], number: int, tokens: int) -> bytes:
        """A prompt that begins with the texts of ``blocks``. The rest has words of its own."""
        parts, left = [], tokens
        for block in blocks:
            if left <= 0:
                break
            parts.append(self._text(block * 2 + 1, min(left, BLOCK_TOKENS)))
            left -= BLOCK_TOKENS
        if left > 0:
            parts.append(self._text(number * 2, left))
        return b"".join(parts)

    def _text(self, identity: int, tokens: int) -> bytes:
        # Multiplying by an odd number maps different identities to different values, and neighbours to distant ones.
        mixed = (identity * 0x9E3779B1 + self._seed * 0x85EBCA6B) & _MASK
        tag = [WORDS[mixed >> shift & 127] for shift in (0, 7, 14, 21)[:tokens]]
        start = mixed % (self._tokens // 2)
        return b"".join((b" ", " ".join(tag).encode(), *self._cut(start, tokens - len(tag))))

    def _cut(self, start: int, tokens: int) -> list[bytes]:
        parts = []
        while tokens > 0:
            end = min(start + tokens, self._tokens)
            parts.append(self._filler[self._ends[start] : self._ends[end]])
            tokens -= end - start
            start = 0
        return parts
