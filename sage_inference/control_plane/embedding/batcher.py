"""Many callers' texts in, few engine calls out, and every vector back to the text it belongs to."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.embedding.batch import EmbeddingBatch
from sage_inference.control_plane.embedding.cache import VectorCache
from sage_inference.control_plane.embedding.call_window import CallWindow
from sage_inference.control_plane.embedding.counters import Counters
from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.embedding.request import EmbeddingJob, Text, TextState
from sage_inference.control_plane.queue.shares import Shares

BULK_EVERY = 4  # of so many calls, at least one takes bulk requests first


@dataclass(frozen=True, slots=True)
class AggregationRules:
    """``max_texts`` caps a call. ``min_texts`` above 1 asks for a wait, of ``max_wait_s`` at the most."""

    max_texts: int = 32
    min_texts: int = 1
    max_wait_s: float = 0.05
    merges: bool = True
    cache_bytes: int = 0


class Batcher:
    """Holds what waits; takes a call's worth when an instance has window.

    It never waits where there is window, unless ``min_texts`` asks for it. Times come from the caller, in seconds.
    """

    def __init__(self, rules: AggregationRules, tenants: TenantCounters | None = None) -> None:
        self.counters = Counters()
        self.lanes: dict[Hashable, MergeQueue] = {}
        self.jobs = 0  # under way
        self.size = 0  # bytes of their texts
        self.cache = VectorCache(rules.cache_bytes)
        self.rules = rules
        self.shares: Shares[EmbeddingJob] = Shares(
            tenants or TenantCounters()
        )  # of jobs of which no text was sent
        self._turn = 0

    def configure(self, rules: AggregationRules) -> None:
        if rules.cache_bytes != self.rules.cache_bytes:
            self.cache = VectorCache(rules.cache_bytes)
        self.rules = rules

    # Callers

    def enter(
        self, job: EmbeddingJob, key: Hashable, model: str, route: str, tokens: Sequence[int], now: float
    ) -> None:
        """Take in a request. ``tokens`` are estimates, text by text.

        It may end at once, from the cache. Otherwise ``line_up`` comes next, or ``send_undivided``.
        """
        if not self.rules.merges:
            key = (key, id(job))
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = MergeQueue(key, model, route)
        job.lane, job.arrived = lane, now
        job.counts, job.estimate = tokens, sum(tokens)
        self.jobs += 1
        self.size += job.size
        self.counters.requests += 1
        self.counters.texts += len(job.raws)
        if self.cache.max_bytes or not lane.enter_undivided(job):
            for place, raw in enumerate(job.raws):
                self._want(lane, job, place, raw, tokens[place], now)
            self._tidy(lane)
            if not job.missing:
                self._finish([job])

    def line_up(self, job: EmbeddingJob) -> None:
        """Queue the part of it that has not ended, and waits with no other."""
        if job.lane is not None:
            job.lane.queue(job)

    def may_send_undivided(self, job: EmbeddingJob, window: CallWindow, now: float, *, full: bool) -> bool:
        """Whether the job may go to the instance with this window, as a call of its own, before it lines up."""
        rules = self.rules
        return (
            job.undivided
            and (full or len(job.raws) >= rules.min_texts)
            and (len(self.lanes) == 1 or not self.waits)
            and not (job.lane and job.lane.waiting)
            and window.takes_undivided(job, now, rules, full=full)
        )

    def send_undivided(
        self, job: EmbeddingJob, window: CallWindow, now: float, *, full: bool
    ) -> EmbeddingBatch:
        """The call of a job for which ``may_send_undivided`` has just returned True."""
        lane = job.lane
        assert isinstance(lane, MergeQueue)
        job.state = TextState.SENT
        batch = EmbeddingBatch(lane, job, full=full)
        counters, texts = self.counters, batch.count
        counters.calls += 1
        counters.sent_texts += texts
        counters.wait_s += texts * (now - job.arrived)
        window.sent(batch)
        return batch

    def leave(self, job: EmbeddingJob) -> list[EmbeddingBatch]:
        """Its caller left or failed: its texts go, unless others want them. Calls now unwanted are returned."""
        lane = job.lane
        if not isinstance(lane, MergeQueue):
            return []
        if job.undivided:
            lane.divide(job)
        lane.remove(job)
        brought = set(map(id, job.pending))
        unwanted: dict[EmbeddingBatch, None] = {}
        for text in dict.fromkeys(job.texts):
            text.wanted = [want for want in text.wanted if want[0] is not job]
            if text.wanted:
                if text.state is TextState.WAITING and id(text) in brought:
                    lane.adopt(text)
            elif text.state is TextState.WAITING:
                lane.drop(text)
            elif isinstance(batch := text.batch, EmbeddingBatch) and not batch.is_wanted:
                unwanted[batch] = None
        self._forget(job)
        self._tidy(lane)
        return list(unwanted)

    def refuse(self, lane: MergeQueue, error: Any) -> list[EmbeddingBatch]:
        """Fail the callers that wait in it: they cannot be served. Calls now unwanted are returned."""
        return self._fail(lane.all_waiting(), error)

    # Calls

    @property
    def waits(self) -> bool:
        """Whether a text has not been sent yet."""
        for lane in self.lanes.values():  # noqa: SIM110 - no call for each: this is asked for every request
            if lane.waiting:
                return True
        return False

    def waiting_lanes(self, now: float) -> list[MergeQueue]:
        """Those with texts to send, in the order of their turn."""
        lanes = [lane for lane in self.lanes.values() if lane.waiting and not self._held(lane, now)]
        if len(lanes) > 1:
            bulk_first = self._bulk_first
            lanes.sort(key=lambda lane: (bool(lane.waiting_interactive) is bulk_first, lane.oldest))
        return lanes

    def next_due(self, now: float) -> float | None:
        """When the next lane that waits to grow may wait no longer."""
        due = [
            lane.oldest + self.rules.max_wait_s
            for lane in self.lanes.values()
            if lane.waiting and self._held(lane, now)
        ]
        return min(due, default=None)

    def limits(self, window: CallWindow) -> CallLimits:
        return window.next_limits().at_most(self.rules.max_texts)

    def next_tokens(self, lane: MergeQueue) -> int:
        """About how many tokens the lane's next call will have."""
        texts = min(lane.waiting, self.rules.max_texts)
        return lane.waiting_tokens * texts // max(1, lane.waiting)

    def is_open(self, lane: MergeQueue, window: CallWindow, now: float) -> bool:
        """Whether the lane's next call may go to the instance with this window."""
        return window.is_open(lane, now, merges=self.rules.merges, max_texts=self.rules.max_texts)

    def take(self, lane: MergeQueue, window: CallWindow, now: float) -> EmbeddingBatch | None:
        """The next call for the instance with this window; None if nothing waits any more."""
        limits = self.limits(window)
        bulk = window.takes_bulk or not self.rules.merges
        full = lane.fills(limits, bulk=bulk)
        content = lane.take(limits, bulk_first=self._bulk_first, bulk=bulk)
        if isinstance(content, EmbeddingJob):
            self.counters.wait_s += len(content.raws) * (now - content.arrived)
        elif content:
            self.counters.wait_s += sum(now - text.since for text in content)
        else:
            return None
        batch = EmbeddingBatch(lane, content, full=full)
        if limits.padding < math.inf:
            batch.full = len(batch) == limits.texts
        self._turn += 1
        return self._sent(batch, window)

    def resend(self, batch: EmbeddingBatch, window: CallWindow) -> EmbeddingBatch | None:
        """The same call to another instance; what that does not take in one call goes back in line."""
        limits = self.limits(window)
        texts: list[Text] = []
        tokens = size = 0
        for text in batch.texts:
            tokens += text.tokens
            size += len(text.raw) + 1
            if not text.wanted or (texts and not limits.admit(len(texts) + 1, tokens, size)):
                continue
            texts.append(text)
        kept = set(map(id, texts))
        self._wait_again(batch.lane, [text for text in batch.texts if id(text) not in kept])
        return self._sent(EmbeddingBatch(batch.lane, texts), window) if texts else None

    def done(
        self, batch: EmbeddingBatch, vectors: Sequence[bytes | memoryview], costs: Sequence[int]
    ) -> None:
        """The engine's answer: a vector a text, in the order of ``batch.texts``, and the tokens of each."""
        lane = batch.lane
        finished: list[EmbeddingJob] = []
        for text, vector, cost in zip(batch.texts, vectors, costs, strict=True):
            lane.drop(text)
            for job, place in text.wanted:
                job.give(place, vector, cost)
                if not job.missing:
                    finished.append(job)
        self._tidy(lane)
        self._finish(finished)
        for job in batch.jobs:
            if job.missing and job.lane is not None:
                job.owner.progressed()
        if self.cache.max_bytes:
            for text, vector, cost in zip(batch.texts, vectors, costs, strict=True):
                self.cache.put(lane.key, text.raw, vector, cost)

    def passed(self, batch: EmbeddingBatch, job: EmbeddingJob) -> None:
        """The engine's answer went to its only caller as it was."""
        if batch.sole_job is None:
            self.abandon(batch)
            self._forget(job)
            return
        lane = batch.lane
        lane.drop_undivided(job)
        if not lane.texts and not lane.undivided:
            self.lanes.pop(lane.key, None)
        # It is in no share of the queue: a job leaves that when its call is sent.
        job.lane = None
        self.jobs -= 1
        self.size -= job.size

    def halve(self, batch: EmbeddingBatch) -> tuple[EmbeddingBatch, EmbeddingBatch] | None:
        """In two, so that a bad text fails only those who sent it; None if all of it is one caller's."""
        halves = batch.halves()
        if halves is None:
            return None
        self.counters.splits += 1
        return EmbeddingBatch(batch.lane, halves[0]), EmbeddingBatch(batch.lane, halves[1])

    def put_back(self, batch: EmbeddingBatch) -> None:
        """It was not computed: its texts stand in front again."""
        self._wait_again(batch.lane, batch.texts)

    def fail(self, batch: EmbeddingBatch, error: Any) -> list[EmbeddingBatch]:
        """All who still want any of it fail with ``error``. Calls now unwanted are returned.

        It may have ended in part: what has its vector, waits again, or is in another call is left alone.
        """
        if batch.sole_job is not None and batch.sole_job.batch is not batch:
            return []
        texts = [text for text in batch.texts if text.batch is batch]
        unwanted = self._fail(texts, error)
        for text in texts:
            batch.lane.drop(text)
        self._tidy(batch.lane)
        return [other for other in unwanted if other is not batch]

    def abandon(self, batch: EmbeddingBatch) -> None:
        """It ended without vectors, and nobody wants them."""
        if batch.sole_job is not None:
            batch.lane.drop_undivided(batch.sole_job)
        else:
            for text in batch.texts:
                batch.lane.drop(text)
        self._tidy(batch.lane)

    # Inside

    @property
    def _bulk_first(self) -> bool:
        return self._turn % BULK_EVERY == BULK_EVERY - 1

    def _held(self, lane: MergeQueue, now: float) -> bool:
        rules = self.rules
        return lane.waiting < rules.min_texts and now < lane.oldest + rules.max_wait_s

    def _want(
        self, lane: MergeQueue, job: EmbeddingJob, place: int, raw: bytes, tokens: int, now: float
    ) -> None:
        text = lane.find(raw)
        if text is not None:
            self.counters.shared_texts += 1
            if text.state is TextState.WAITING and job.interactive and not text.interactive:
                lane.promote(job, text)
        elif (cached := self.cache.get(lane.key, raw)) is not None:
            self.counters.cached_texts += 1
            job.give(place, *cached)
            return
        else:
            text = Text(raw, tokens, now)
            lane.enter(job, text)
        text.wanted.append((job, place))
        job.texts.append(text)

    def _count(self, batch: EmbeddingBatch, window: CallWindow) -> None:
        window.sent(batch)
        self.counters.calls += 1
        self.counters.sent_texts += len(batch)

    def _sent(self, batch: EmbeddingBatch, window: CallWindow) -> EmbeddingBatch:
        self._count(batch, window)
        for job in batch.jobs:
            self.shares.remove(job)
            job.owner.progressed()
        return batch

    def _wait_again(self, lane: MergeQueue, texts: list[Text]) -> None:
        lane.put_back(texts)
        self._tidy(lane)
        # From here on their callers' own clocks watch the wait again.
        for job in dict.fromkeys(job for text in texts for job, _ in text.wanted):
            job.owner.progressed()

    def _fail(self, texts: Iterable[Text], error: Any) -> list[EmbeddingBatch]:
        unwanted: list[EmbeddingBatch] = []
        for job in dict.fromkeys(job for text in texts for job, _ in text.wanted):
            if job.lane is not None:  # otherwise what became of another has ended it, too
                unwanted += self.leave(job)
                job.owner.failed(error)
        return unwanted

    def _finish(self, jobs: Iterable[EmbeddingJob]) -> None:
        for job in jobs:
            if job.lane is not None:
                self._forget(job)
                job.owner.finished()

    def _forget(self, job: EmbeddingJob) -> None:
        job.lane = None
        self.shares.remove(job)
        job.texts.clear()  # each points back at it: so it is freed at once, not by the collector
        self.jobs -= 1
        self.size -= job.size

    def _tidy(self, lane: MergeQueue) -> None:
        if lane.is_empty:
            self.lanes.pop(lane.key, None)
