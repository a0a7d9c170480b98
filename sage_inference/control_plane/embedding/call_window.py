"""The calls in flight at one instance, and whether another one may be sent."""

from __future__ import annotations

from typing import Protocol

from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.learned_window import LearnedWindow
from sage_inference.control_plane.embedding.limits import CallLimits, least
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.embedding.padding import CallCost
from sage_inference.control_plane.embedding.request import INTERACTIVE_TEXTS, EmbeddingJob

WINDOW_CALLS = 2  # one in work, and one that is there when the engine has finished it
MOST_INTERACTIVE = 16  # calls with interactive texts only
FIRST_BACKOFF_S = 0.05


class CallRules(Protocol):
    """The part of the rules of aggregation that a window follows."""

    @property
    def max_texts(self) -> int: ...

    @property
    def merges(self) -> bool: ...


class CallWindow:
    """The calls that one instance was sent and has not answered.

    Nagle's rule (RFC 896) for calls: a call that could still grow is sent only while fewer than two such calls are in
    flight, because a third one would wait in the engine just as long. If the engine pads, a call could also grow while the
    waiting texts are too long or too short for it. A full call gains nothing by waiting. Of calls with bulk texts, so many
    are sent as ``learned`` found to pay, or as fill one of the engine's own batches. Calls with interactive texts only are
    sent beside them.
    """

    __slots__ = (
        "batches",
        "bulk",
        "closed_until",
        "cost",
        "held_back",
        "last_answer",
        "learned",
        "limits",
        "overloads",
        "partial",
        "stalled_at",
        "texts",
        "tokens",
        "unusable",
    )

    def __init__(self, limits: CallLimits) -> None:
        self.use(limits)
        self.batches: set[EmbeddingBatch] = set()
        self.bulk = 0  # calls among them with bulk texts
        self.partial = 0  # calls among them that could have taken more
        self.texts = 0
        self.tokens = 0
        self.held_back = False  # whether bulk texts had to wait for the window since the last answer
        self.closed_until = 0.0
        self.overloads = 0  # in a row, while no call of ours was in flight
        self.unusable = 0  # answers in a row without vectors in them
        self.cost = CallCost()  # of an engine that pads
        self.last_answer = 0.0
        self.stalled_at = 0.0  # when this process last continued after a stall

    def use(self, limits: CallLimits) -> None:
        """Follow the limits of another engine or model, and learn its window anew."""
        self.limits = limits
        self.learned = LearnedWindow(batches_known=bool(limits.batch_tokens))

    def is_open(self, merge_queue: MergeQueue, now: float, *, max_texts: int, merges: bool = True) -> bool:
        """Whether a call with what waits in ``merge_queue``, of ``max_texts`` at the most, may be sent now."""
        interactive = bool(merge_queue.waiting_interactive)
        if not self.takes_full(now, interactive=interactive, merges=merges):
            return False
        if not self.batches or not merges or self._takes_partial(interactive=interactive):
            return True
        if self.limits.pads:  # no call is full then: texts of a better length may come
            return False
        takes_bulk = self.takes_bulk
        if takes_bulk and merge_queue.waiting > merge_queue.waiting_interactive:
            return True
        # By the engine's own limits. A call that only fills the little room left can as well wait for more texts.
        return merge_queue.fills(self.limits.at_most(max_texts), bulk=takes_bulk)

    def is_filled_by(self, job: EmbeddingJob, max_texts: int) -> bool:
        """Whether a call of this job's texts, of ``max_texts`` at the most, could take no other text, or need not."""
        limits, texts = self.limits, len(job.raws)
        if limits.pads:
            return False
        # Little is gained where bulk requests share a call, and each would have to wait for the others.
        if texts > INTERACTIVE_TEXTS and not limits.serial:
            return True
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
        return (full or not merges or self._takes_partial(interactive=job.interactive)) and self.takes_full(
            now, interactive=job.interactive, merges=merges
        )

    def _admits(self, job: EmbeddingJob, max_texts: int) -> bool:
        texts, left = len(job.raws), self._texts_left()
        return (
            (not max_texts or texts <= max_texts)
            and (left is None or texts <= left)
            and self.limits.admit_request(texts, job.estimate, job.size + texts)
        )

    def _takes_partial(self, *, interactive: bool) -> bool:
        """Whether a call that could still grow may be sent."""
        # Behind bulk calls the answer takes longer, so that a person would wait for more than one of them.
        return self.partial < WINDOW_CALLS + (self.bulk if interactive else 0)

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
        if interactive:
            self.learned.interactive(now)
            if len(self.batches) - self.bulk < MOST_INTERACTIVE:
                return True
        if self.takes_bulk:
            return True
        self.held_back = True
        return False

    @property
    def takes_bulk(self) -> bool:
        """Whether bulk texts may be sent."""
        return self.bulk < self.learned.calls or self.tokens < self.limits.batch_tokens

    def next_limits(self) -> CallLimits:
        """The limits of the next call: the engine's own, and the rest of its limits on all calls together."""
        left = self._texts_left()
        limits = self.limits if left is None else self.limits.at_most(max(1, left))
        return limits.at_most_padding(self.cost.call_in_tokens) if limits.pads else limits

    def sent(self, batch: EmbeddingBatch) -> None:
        if batch.bulk:
            self.bulk += 1
            if not self.limits.pads:
                batch.full = True  # it gains little by other texts, see ``is_filled_by``
        self.batches.add(batch)
        self.partial += not batch.full
        self.texts += batch.count
        self.tokens += batch.tokens

    def ended(self, batch: EmbeddingBatch) -> None:
        self.batches.remove(batch)
        if batch.bulk:
            self.bulk -= 1
        self.partial -= not batch.full
        self.texts -= batch.count
        self.tokens -= batch.tokens

    def answered(self, batch: EmbeddingBatch, sent_at: float, now: float) -> None:
        """End a pause: the engine takes work. The time since its answer before was spent on this call."""
        self.closed_until = 0.0
        self.overloads = 0
        # Only where bulk texts wait does the window decide the throughput.
        if self.held_back:
            self.held_back = False
            if sent_at > self.stalled_at:
                self.learned.finished(batch.tokens, now, len(self.batches))
            else:
                self.learned.interrupted()
        elif self.learned.counting:  # before the last answer bulk texts waited, now none do
            self.learned.interrupted()
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
