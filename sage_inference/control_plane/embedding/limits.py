"""The limits of an engine: those of a call, of a text, and of all calls together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

DEFAULT_CALL_TOKENS = 8192  # where the engine does not report how much it computes at a time


@dataclass(frozen=True, slots=True)
class CallLimits:
    """0 means that no limit is known. ``size`` is in bytes of JSON.

    ``texts`` and ``size`` bound a call, ``tokens`` one with texts of several requests, ``text_tokens`` a text, and
    ``texts_at_once`` all calls in flight together. ``batch_tokens``: the engine computes so many tokens at a time, of
    whichever calls. ``truncates``: longer texts are cut silently. ``serial``: the engine makes no batches of
    several calls, so one at a time is all it can use. ``pads``: it computes every text of a call as if it
    were as long as the longest; ``padding`` bounds the tokens that are computed so for nothing.
    """

    texts: int = 0
    tokens: int = DEFAULT_CALL_TOKENS
    size: int = 0
    batch_tokens: int = 0
    text_tokens: int = 0
    texts_at_once: int = 0
    truncates: bool = False
    serial: bool = False
    pads: bool = False
    padding: float = math.inf

    @classmethod
    def told(cls, facts: Mapping[str, int], *, size: int, serial: bool) -> CallLimits:
        """From the facts that an engine reports, under TEI's names."""
        return cls(
            texts=facts.get("max_client_batch_size", 0),
            tokens=facts.get("max_batch_tokens", 0) or DEFAULT_CALL_TOKENS,
            size=size,
            batch_tokens=0 if facts.get("pads") else facts.get("max_batch_tokens", 0),
            text_tokens=facts.get("max_input_length", 0),
            texts_at_once=facts.get("max_concurrent_requests", 0),
            truncates=bool(facts.get("auto_truncate", 0)),
            serial=serial,
            pads=bool(facts.get("pads", 0)),
        )

    def at_most(self, texts: int) -> CallLimits:
        """The same with a cap on the texts of a call."""
        return _capped(self, texts)

    def at_most_padding(self, tokens: float) -> CallLimits:
        return replace(self, padding=min(self.padding, tokens))

    def learn(self, *, texts: int = 0, size: int = 0) -> CallLimits:
        """The same after a refusal that showed a tighter limit."""
        return replace(self, texts=least(self.texts, texts), size=least(self.size, size))

    def admit(self, texts: int, tokens: int, size: int) -> bool:
        """Whether a call with texts of several requests may hold so much."""
        return tokens <= self.tokens and self._admit(texts, size)

    def admit_request(self, texts: int, tokens: int, size: int) -> bool:
        """Whether a call may hold so much of one request.

        Its tokens are an estimate, and no limit of the engine. A request in more calls only has more answers to wait for.
        A serial engine has to take other callers in between.
        """
        return (tokens <= self.tokens or not self.serial) and self._admit(texts, size)

    def _admit(self, texts: int, size: int) -> bool:
        return (not self.texts or texts <= self.texts) and (not self.size or size <= self.size)


@lru_cache(maxsize=1024)
def _capped(limits: CallLimits, texts: int) -> CallLimits:
    return replace(limits, texts=least(limits.texts, texts))


def least(one: int, other: int) -> int:
    """The tighter of two limits, where 0 is none."""
    return min(one, other) if one and other else one or other
