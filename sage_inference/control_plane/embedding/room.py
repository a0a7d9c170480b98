"""How much of an instance's attention is free for another embedding call."""

from __future__ import annotations

from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.lane import Lane
from sage_inference.control_plane.embedding.limits import CallLimits

WINDOW_BATCHES = 2  # one that the engine computes, one that it finds when it has done so
FIRST_BACKOFF_S = 0.05


class Room:
    """What one instance has been sent and not answered.

    Nagle's rule (RFC 896) for calls: a full one goes while fewer than two of the engine's batches are
    outstanding; one that could still grow goes only while fewer than two calls are, for until then the
    engine would let it wait just as long.
    """

    __slots__ = ("batches", "closed_until", "limits", "overloads", "texts", "tokens")

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self.batches: set[EmbeddingBatch] = set()
        self.texts = 0
        self.tokens = 0
        self.closed_until = 0.0
        self.overloads = 0  # in a row, that no call of ours was to blame for

    def is_open(self, lane: Lane, now: float, *, max_texts: int, merges: bool = True) -> bool:
        """Whether a call with what waits in ``lane``, of ``max_texts`` at the most, may be sent now."""
        if now < self.closed_until:
            return False
        if not self.batches:
            return True
        limits = self.limits
        if limits.serial or self.tokens >= WINDOW_BATCHES * limits.tokens or self._texts_left() == 0:
            return False
        if len(self.batches) < WINDOW_BATCHES or not merges:
            return True
        return lane.fills(self.next_limits().at_most(max_texts))

    def next_limits(self) -> CallLimits:
        """The limits of the next call: the engine's, and what is left of those on all calls together."""
        left = self._texts_left()
        return self.limits if left is None else self.limits.at_most(max(1, left))

    def sent(self, batch: EmbeddingBatch) -> None:
        self.batches.add(batch)
        self.texts += len(batch)
        self.tokens += batch.tokens

    def ended(self, batch: EmbeddingBatch) -> None:
        self.batches.remove(batch)
        self.texts -= len(batch)
        self.tokens -= batch.tokens

    def answered(self) -> None:
        """It takes work: no reason to hold back."""
        self.closed_until = 0.0
        self.overloads = 0

    def overloaded(self, now: float) -> None:
        """It refused a call for being busy: ask again when another call is answered, or after a while."""
        self.closed_until = now + FIRST_BACKOFF_S * 2**self.overloads
        if not self.batches:
            self.overloads += 1

    def _texts_left(self) -> int | None:
        at_once = self.limits.texts_at_once
        return max(0, at_once - self.texts) if at_once else None
