"""The limits of an engine: those of a call, of a text, and of all calls together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

DEFAULT_WINDOW_TOKENS = 8192  # of an engine that does not report how much it computes in a step


@dataclass(frozen=True, slots=True)
class CallLimits:
    """0 means that no limit is known. ``size`` is in bytes of JSON.

    ``texts``, ``tokens`` and ``size`` bound a call, ``text_tokens`` a text, ``texts_at_once`` all calls in
    flight together. ``truncates``: longer texts are cut silently. ``serial``: the engine makes no batches of
    several calls, so one at a time is all it can use. ``pads``: it computes every text of a call as if it
    were as long as the longest; ``padding`` bounds the tokens that are computed so for nothing.
    """

    texts: int = 0
    tokens: int = DEFAULT_WINDOW_TOKENS
    size: int = 0
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
            tokens=facts.get("max_batch_tokens", 0) or DEFAULT_WINDOW_TOKENS,
            size=size,
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
        """Whether a call may hold so much."""
        return (
            (not self.texts or texts <= self.texts)
            and tokens <= self.tokens
            and (not self.size or size <= self.size)
        )


@lru_cache(maxsize=1024)
def _capped(limits: CallLimits, texts: int) -> CallLimits:
    return replace(limits, texts=least(limits.texts, texts))


def least(one: int, other: int) -> int:
    """The tighter of two limits, where 0 is none."""
    return min(one, other) if one and other else one or other
