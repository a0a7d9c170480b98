"""The calls in flight at one instance, and whether another one may be sent."""

from __future__ import annotations

from typing import Protocol

from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.limits import CallLimits, least
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.embedding.padding import CallCost
from sage_inference.control_plane.embedding.request import EmbeddingJob

WINDOW_CALLS = 2  # one in work, and one that is there when the engine has finished it
FIRST_BACKOFF_S = 0.05


class CallRules(Protocol):
    """The part of the rules of aggregation that a window follows."""

    @property
    def max_texts(self) -> int: ...

    @property
    def merges(self) -> bool: ...


class CallWindow:
    """The calls that one instance was sent and has not answered.

    Nagle's rule (RFC 896) for calls. A full call is sent while the engine has fewer tokens than its window: one of its
    own batches, or two if the texts are interactive. A call that could still grow is sent only while fewer than two such
    calls are in flight, because a third one would wait in the engine just as long. If the engine pads, a call could also
    grow while the waiting texts are too long or too short for it.
    """

    __slots__ = (
        "batches",
        "closed_until",
        "cost",
        "last_answer",
        "limits",
        "overloads",
        "partial",
        "stalled_at",
        "texts",
        "tokens",
        "unusable",
    )

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self.batches: set[EmbeddingBatch] = set()
        self.partial = 0  # calls among them that could have taken more
        self.texts = 0
        self.tokens = 0
        self.closed_until = 0.0
        self.overloads = 0  # in a row, while no call of ours was in flight
        self.unusable = 0  # answers in a row without vectors in them
        self.cost = CallCost()  # of an engine that pads
        self.last_answer = 0.0
        self.stalled_at = 0.0  # when this process last continued after a stall

    def is_open(self, merge_queue: MergeQueue, now: float, *, max_texts: int, merges: bool = True) -> bool:
        """Whether a call with what waits in ``merge_queue``, of ``max_texts`` at the most, may be sent now."""
        if not self.takes_full(now, interactive=bool(merge_queue.waiting_interactive), merges=merges):
            return False
        if not self.batches or not merges or self.partial < WINDOW_CALLS:
            return True
        if self.limits.pads:  # no call is full then: texts of a better length may come
            return False
        # By the engine's own limits. A call that only fills the little room left can as well wait for more texts.
        return merge_queue.fills(self.limits.at_most(max_texts), bulk=self.takes_bulk)

    def is_filled_by(self, job: EmbeddingJob, max_texts: int) -> bool:
        """Whether a call of this job's texts, of ``max_texts`` at the most, could take no other text."""
        limits, texts = self.limits, len(job.raws)
        if limits.pads:
            return False
        return texts == max_texts or texts == limits.texts or job.estimate >= limits.tokens

    def takes_undivided(self, job: EmbeddingJob, now: float, rules: CallRules, *, full: bool) -> bool:
        """Whether a call of just this job's texts may be sent now. ``full``: it could take no other text."""
        if now < self.closed_until:
            return False
        texts, merges = len(job.raws), rules.merges
        # A single text is sent however large it is: only the engine can refuse it.
        if texts > 1 and not self._admits(job, least(self.limits.texts, rules.max_texts)):
            return False
        if not self.batches:
            return True
        return (full or not merges or self.partial < WINDOW_CALLS) and self.takes_full(
            now, interactive=job.interactive, merges=merges
        )

    def _admits(self, job: EmbeddingJob, max_texts: int) -> bool:
        texts, left = len(job.raws), self._texts_left()
        return (
            (not max_texts or texts <= max_texts)
            and (left is None or texts <= left)
            and self.limits.admit(texts, job.estimate, job.size + texts)
        )

    def takes_full(self, now: float, *, interactive: bool, merges: bool = True) -> bool:
        """Whether a full call may be sent now. ``interactive``: a person waits for it."""
        if now < self.closed_until:
            return False
        if not self.batches:
            return True  # an idle engine takes anything, and waiting for more texts would gain nothing
        if self._texts_left() == 0:
            return False
        if not merges:
            return True
        if self.limits.serial:
            return False
        return self.takes_bulk or (interactive and self.tokens < 2 * self.limits.tokens)

    @property
    def takes_bulk(self) -> bool:
        """Whether bulk texts may be sent. They get one of the engine's batches; the next is kept for interactive texts."""
        return self.tokens < self.limits.tokens

    def next_limits(self) -> CallLimits:
        """The limits of the next call: the engine's own, and the rest of its limits on all calls together."""
        left = self._texts_left()
        limits = self.limits if left is None else self.limits.at_most(max(1, left))
        return limits.at_most_padding(self.cost.call_in_tokens) if limits.pads else limits

    def sent(self, batch: EmbeddingBatch) -> None:
        self.batches.add(batch)
        self.partial += not batch.full
        self.texts += batch.count
        self.tokens += batch.tokens

    def ended(self, batch: EmbeddingBatch) -> None:
        self.batches.remove(batch)
        self.partial -= not batch.full
        self.texts -= batch.count
        self.tokens -= batch.tokens

    def answered(self, batch: EmbeddingBatch, sent_at: float, now: float) -> None:
        """End a pause: the engine takes work. The time since its answer before was spent on this call."""
        self.closed_until = 0.0
        self.overloads = 0
        if self.limits.pads:
            if sent_at > self.stalled_at:
                self.cost.learn(batch.padded_tokens, now - max(sent_at, self.last_answer))
            self.last_answer = now

    def overloaded(self, now: float) -> None:
        """Pause after a refusal because the engine is busy, until another call is answered or for a while."""
        self.closed_until = now + FIRST_BACKOFF_S * 2**self.overloads
        # With calls of ours in flight the engine may be busy with these, and their answers end the pause.
        if not self.batches:
            self.overloads += 1

    def _texts_left(self) -> int | None:
        at_once = self.limits.texts_at_once
        return max(0, at_once - self.texts) if at_once else None
