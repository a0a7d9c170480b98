"""Calls for engines that pad every text to the longest beside it: which texts go together, and what that is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sage_inference.control_plane.cost import LONGEST_MS
from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.request import Text

FORGET = 0.98  # each call weighs so much of the next one
ENOUGH_CALLS = 8
ENOUGH_SPREAD = 0.2  # of the calls' sizes, relative to their mean
LEAST_TOKENS = 32  # whatever was learned: a call is never free


class CallCost:
    """The engine's time for a call: a part for itself, and one for each token, padding included.

    Fitted by least squares to the calls that were answered, the older the less.
    """

    __slots__ = ("_calls", "_seconds", "_tokens", "_tokens_seconds", "_tokens_squared")

    def __init__(self) -> None:
        self._calls = self._tokens = self._seconds = 0.0
        self._tokens_squared = self._tokens_seconds = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        if not 0.0 <= seconds * 1000 < LONGEST_MS:
            return
        self._calls = FORGET * self._calls + 1
        self._tokens = FORGET * self._tokens + tokens
        self._seconds = FORGET * self._seconds + seconds
        self._tokens_squared = FORGET * self._tokens_squared + tokens * tokens
        self._tokens_seconds = FORGET * self._tokens_seconds + tokens * seconds

    @property
    def call_in_tokens(self) -> float:
        """How many tokens take as long as one more call would; infinite while that is not known.

        It is tens on a CPU, thousands on a GPU with a small model.
        """
        n, x, y = self._calls, self._tokens, self._seconds
        variance = n * self._tokens_squared - x * x
        covariance = n * self._tokens_seconds - x * y
        if n < ENOUGH_CALLS or variance < (ENOUGH_SPREAD * x) ** 2 or covariance <= 0:
            return math.inf
        a_token = covariance / variance
        return max(LEAST_TOKENS, (y / n - a_token * x / n) / a_token)


class AlikeTexts:
    """A call that begins with a certain text, and takes those that it costs the least padding to add."""

    def __init__(self, limits: CallLimits, first: Text) -> None:
        self.texts = [first]
        self._limits = limits
        self._longest = self._tokens = first.tokens
        self._size = len(first.raw) + 1

    def extend(self, others: Sequence[Text]) -> bool:
        """Add of the others what fits, those of one length in their order; whether that was all of them."""
        # Both end with the one that is nearest in length and, of those, came first.
        shorter = sorted((t for t in others[::-1] if t.tokens <= self._longest), key=lambda t: t.tokens)
        longer = sorted((t for t in others[::-1] if t.tokens > self._longest), key=lambda t: -t.tokens)
        while shorter or longer:
            below = self._padding_with(shorter[-1]) if shorter else math.inf
            above = self._padding_with(longer[-1]) if longer else math.inf
            nearest = shorter if below <= above else longer
            if min(below, above) > self._limits.padding or not self._add(nearest[-1]):
                return False
            nearest.pop()
        return True

    def _padding_with(self, text: Text) -> int:
        longest = max(self._longest, text.tokens)
        return (len(self.texts) + 1) * longest - self._tokens - text.tokens

    def _add(self, text: Text) -> bool:
        tokens, size = self._tokens + text.tokens, self._size + len(text.raw) + 1
        if not self._limits.admit(len(self.texts) + 1, tokens, size):
            return False
        self.texts.append(text)
        self._longest = max(self._longest, text.tokens)
        self._tokens, self._size = tokens, size
        return True
