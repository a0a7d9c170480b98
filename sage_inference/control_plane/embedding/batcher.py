"""The batcher: merges texts of many callers into few engine calls, and returns each vector to its text."""

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
    """Keeps the texts that wait, and takes a call's worth when the window of an instance is open.

    It never waits where a window is open, unless ``min_texts`` asks for it. Times come from the caller, in seconds.
    """

    def __init__(self, rules: AggregationRules, tenants: TenantCounters | None = None) -> None:
        self.counters = Counters()
        self.merge_queues: dict[Hashable, MergeQueue] = {}
        self.jobs = 0  # under way
        self.size = 0  # bytes of their texts
        self.cache = VectorCache(rules.cache_bytes)
        self.rules = rules
        # Jobs of which no text was sent yet.
        self.shares: Shares[EmbeddingJob] = Shares(tenants or TenantCounters())
        self._rotation = 0

    def configure(self, rules: AggregationRules) -> None:
        # A cache of another size begins empty; any other setting keeps what it has.
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
            key = (key, id(job))  # a queue of its own, so that nothing is shared
        merge_queue = self.merge_queues.get(key)
        if merge_queue is None:
            merge_queue = self.merge_queues[key] = MergeQueue(key, model, route)
        job.merge_queue, job.arrived = merge_queue, now
        job.counts, job.estimate = tokens, sum(tokens)
        self.jobs += 1
        self.size += job.size
        self.counters.requests += 1
        self.counters.texts += len(job.raws)
        # With a cache each text must be looked up, so the job cannot stay undivided.
        if self.cache.max_bytes or not merge_queue.enter_undivided(job):
            for place, raw in enumerate(job.raws):
                self._want(merge_queue, job, place, raw, tokens[place], now)
            self._tidy(merge_queue)
            if not job.missing:
                self._finish([job])

    def line_up(self, job: EmbeddingJob) -> None:
        """Queue the texts of a job that wait, and do not wait already for another job."""
        if job.merge_queue is not None:  # None if the cache had all of its vectors
            job.merge_queue.queue(job)

    def may_send_undivided(self, job: EmbeddingJob, window: CallWindow, now: float, *, full: bool) -> bool:
        """Whether the job may go to the instance with this window, as a call of its own, before it lines up."""
        rules = self.rules
        return (
            job.undivided
            and (len(job.raws) >= rules.min_texts or job.estimate >= window.limits.tokens)
            and (len(self.merge_queues) == 1 or not self.waits)
            and not (job.merge_queue and job.merge_queue.waiting)
            and window.takes_undivided(job, now, rules, full=full)
        )

    def send_undivided(
        self, job: EmbeddingJob, window: CallWindow, now: float, *, full: bool
    ) -> EmbeddingBatch:
        """The call of a job for which ``may_send_undivided`` has just returned True."""
        merge_queue = job.merge_queue
        assert isinstance(merge_queue, MergeQueue)
        job.state = TextState.SENT
        batch = EmbeddingBatch(merge_queue, job, full=full)
        counters, texts = self.counters, batch.count
        counters.calls += 1
        counters.sent_texts += texts
        counters.wait_s += texts * (now - job.arrived)
        window.sent(batch)
        return batch

    def leave(self, job: EmbeddingJob) -> list[EmbeddingBatch]:
        """Remove a job, and its texts unless others want them. Returns the batches that nobody wants any more."""
        merge_queue = job.merge_queue
        if not isinstance(merge_queue, MergeQueue):
            return []
        if job.undivided:  # callers that leave are rare: one way for both forms of a job is enough
            merge_queue.divide(job)
        merge_queue.remove(job)
        brought = set(map(id, job.pending))  # texts in line under this job; others are in line elsewhere
        unwanted: dict[EmbeddingBatch, None] = {}
        for text in dict.fromkeys(job.texts):
            text.wanted = [want for want in text.wanted if want[0] is not job]
            if text.wanted:
                if text.state is TextState.WAITING and id(text) in brought:
                    merge_queue.reassign(text)
            elif text.state is TextState.WAITING:
                merge_queue.drop(text)
            elif isinstance(batch := text.batch, EmbeddingBatch) and not batch.is_wanted:
                unwanted[batch] = None
        self._forget(job)
        self._tidy(merge_queue)
        return list(unwanted)

    def refuse(self, merge_queue: MergeQueue, error: Any) -> list[EmbeddingBatch]:
        """Fail the jobs that wait in a queue. Returns the batches that nobody wants any more."""
        return self._fail(merge_queue.all_waiting(), error)

    # Calls

    @property
    def waits(self) -> bool:
        """Whether a text has not been sent yet."""
        for merge_queue in self.merge_queues.values():  # noqa: SIM110 - no call for each: this is asked for every request
            if merge_queue.waiting:
                return True
        return False

    def waiting_queues(self, now: float) -> list[MergeQueue]:
        """Queues with texts to send, in the order in which they get a call."""
        merge_queues = [
            merge_queue
            for merge_queue in self.merge_queues.values()
            if merge_queue.waiting and not self._held(merge_queue, now)
        ]
        if len(merge_queues) > 1:
            bulk_first = self._bulk_first
            merge_queues.sort(
                key=lambda merge_queue: (
                    bool(merge_queue.waiting_interactive) is bulk_first,
                    merge_queue.oldest,
                )
            )
        return merge_queues

    def next_due(self, now: float) -> float | None:
        """The time when the next queue that waits for ``min_texts`` may wait no longer."""
        due = [
            merge_queue.oldest + self.rules.max_wait_s
            for merge_queue in self.merge_queues.values()
            if merge_queue.waiting and self._held(merge_queue, now)
        ]
        return min(due, default=None)

    def limits(self, window: CallWindow) -> CallLimits:
        return window.next_limits().at_most(self.rules.max_texts)

    def next_tokens(self, merge_queue: MergeQueue) -> int:
        """About how many tokens the next call of the queue will have."""
        # The texts that will go are not chosen yet, so their share of all waiting tokens must do.
        texts = min(merge_queue.waiting, self.rules.max_texts)
        return merge_queue.waiting_tokens * texts // max(1, merge_queue.waiting)

    def is_open(self, merge_queue: MergeQueue, window: CallWindow, now: float) -> bool:
        """Whether the next call of the queue may go to the instance with this window."""
        return window.is_open(merge_queue, now, merges=self.rules.merges, max_texts=self.rules.max_texts)

    def take(self, merge_queue: MergeQueue, window: CallWindow, now: float) -> EmbeddingBatch | None:
        """The next call for the instance with this window; None if nothing waits any more."""
        # With bulk texts in work, the rest of the window is for interactive texts only.
        limits = self.limits(window)
        bulk = window.takes_bulk or not self.rules.merges
        full = merge_queue.fills(limits, bulk=bulk)
        content = merge_queue.take(limits, bulk_first=self._bulk_first, bulk=bulk)
        if isinstance(content, EmbeddingJob):
            self.counters.wait_s += len(content.raws) * (now - content.arrived)
        elif content:
            self.counters.wait_s += sum(now - text.since for text in content)
        else:
            return None
        batch = EmbeddingBatch(merge_queue, content, full=full)
        # Texts of one length were chosen, and fewer than the limit: more of that length would have fitted.
        if limits.padding < math.inf:
            batch.full = len(batch) == limits.texts
        self._rotation += 1
        return self._sent(batch, window)

    def resend(self, batch: EmbeddingBatch, window: CallWindow) -> EmbeddingBatch | None:
        """The same batch for another instance. Texts beyond its limits go back in line."""
        limits = self.limits(window)
        texts: list[Text] = []
        tokens = size = 0
        for text in batch.texts:
            tokens += text.tokens
            size += len(text.raw) + 1
            if not text.wanted or (texts and not limits.admit(len(texts) + 1, tokens, size)):
                continue
            texts.append(text)
        # The other instance may have tighter limits, and callers may have left since.
        kept = set(map(id, texts))
        self._wait_again(batch.merge_queue, [text for text in batch.texts if id(text) not in kept])
        return self._sent(EmbeddingBatch(batch.merge_queue, texts), window) if texts else None

    def done(
        self, batch: EmbeddingBatch, vectors: Sequence[bytes | memoryview], costs: Sequence[int]
    ) -> None:
        """Hand out an answer: a vector a text, in the order of ``batch.texts``, and the tokens of each."""
        merge_queue = batch.merge_queue
        finished: list[EmbeddingJob] = []
        for text, vector, cost in zip(batch.texts, vectors, costs, strict=True):
            # Dropped before it is handed out: a request that comes now gets it computed anew, or from the cache.
            merge_queue.drop(text)
            for job, place in text.wanted:
                job.give(place, vector, cost)
                if not job.missing:
                    finished.append(job)
        self._tidy(merge_queue)
        # Callers are called last: what they do may change the queues.
        self._finish(finished)
        for job in batch.jobs:
            if job.missing and job.merge_queue is not None:
                job.owner.progressed()
        # Last, because callers wait for their vectors, and nobody waits for the cache.
        if self.cache.max_bytes:
            for text, vector, cost in zip(batch.texts, vectors, costs, strict=True):
                self.cache.put(merge_queue.key, text.raw, vector, cost)

    def relayed(self, batch: EmbeddingBatch, job: EmbeddingJob) -> None:
        """End a batch whose answer is relayed to its only caller."""
        if batch.sole_job is None:  # it was divided while its call was under way, and nobody else joined
            self.abandon(batch)
            self._forget(job)
            return
        merge_queue = batch.merge_queue
        merge_queue.drop_undivided(job)
        if not merge_queue.texts and not merge_queue.undivided:
            self.merge_queues.pop(merge_queue.key, None)
        # No need to remove the job from the shares of the queue: it left them when its batch was sent.
        job.merge_queue = None
        self.jobs -= 1
        self.size -= job.size

    def halve(self, batch: EmbeddingBatch) -> tuple[EmbeddingBatch, EmbeddingBatch] | None:
        """Divide a batch, so that a bad text fails only its own callers. None if all its texts have the same callers."""
        halves = batch.halves()
        if halves is None:
            return None
        self.counters.splits += 1
        return EmbeddingBatch(batch.merge_queue, halves[0]), EmbeddingBatch(batch.merge_queue, halves[1])

    def put_back(self, batch: EmbeddingBatch) -> None:
        """Return the texts of a batch that was not computed to the front."""
        self._wait_again(batch.merge_queue, batch.texts)

    def fail(self, batch: EmbeddingBatch, error: Any) -> list[EmbeddingBatch]:
        """Fail all jobs that still want a text of a batch. Returns other batches that nobody wants any more.

        A text that has its vector, waits again, or is in another batch is not touched.
        """
        # The job waits again, or is in another batch.
        if batch.sole_job is not None and batch.sole_job.batch is not batch:
            return []
        texts = [text for text in batch.texts if text.batch is batch]
        unwanted = self._fail(texts, error)
        # Dropped here, because a job that leaves drops only those of its texts that wait: these were sent.
        for text in texts:
            batch.merge_queue.drop(text)
        self._tidy(batch.merge_queue)
        return [other for other in unwanted if other is not batch]

    def abandon(self, batch: EmbeddingBatch) -> None:
        """Forget a batch whose vectors nobody wants."""
        if batch.sole_job is not None:
            batch.merge_queue.drop_undivided(batch.sole_job)
        else:
            for text in batch.texts:
                batch.merge_queue.drop(text)
        self._tidy(batch.merge_queue)

    # Inside

    @property
    def _bulk_first(self) -> bool:
        # Otherwise interactive requests without end would let no bulk request through.
        return self._rotation % BULK_EVERY == BULK_EVERY - 1

    def _held(self, merge_queue: MergeQueue, now: float) -> bool:
        rules = self.rules
        return merge_queue.waiting < rules.min_texts and now < merge_queue.oldest + rules.max_wait_s

    def _want(
        self, merge_queue: MergeQueue, job: EmbeddingJob, place: int, raw: bytes, tokens: int, now: float
    ) -> None:
        text = merge_queue.find(raw)
        if text is not None:
            self.counters.shared_texts += 1
            # A person waits for it now, so it must not wait for the turn of bulk texts.
            if text.state is TextState.WAITING and job.interactive and not text.interactive:
                merge_queue.promote(job, text)
        elif (cached := self.cache.get(merge_queue.key, raw)) is not None:
            self.counters.cached_texts += 1
            job.give(place, *cached)
            return
        else:
            text = Text(raw, tokens, now)
            merge_queue.enter(job, text)
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

    def _wait_again(self, merge_queue: MergeQueue, texts: list[Text]) -> None:
        merge_queue.put_back(texts)
        self._tidy(merge_queue)
        # Their callers time the wait again.
        for job in dict.fromkeys(job for text in texts for job, _ in text.wanted):
            job.owner.progressed()

    def _fail(self, texts: Iterable[Text], error: Any) -> list[EmbeddingBatch]:
        unwanted: list[EmbeddingBatch] = []
        for job in dict.fromkeys(job for text in texts for job, _ in text.wanted):
            if job.merge_queue is not None:  # otherwise the failure of another job has ended this one, too
                unwanted += self.leave(job)
                job.owner.failed(error)
        return unwanted

    def _finish(self, jobs: Iterable[EmbeddingJob]) -> None:
        for job in jobs:
            if job.merge_queue is not None:
                self._forget(job)
                job.owner.finished()

    def _forget(self, job: EmbeddingJob) -> None:
        job.merge_queue = None
        self.shares.remove(job)
        job.texts.clear()  # breaks a cycle, so that the job is freed without the garbage collector
        self.jobs -= 1
        self.size -= job.size

    def _tidy(self, merge_queue: MergeQueue) -> None:
        if merge_queue.is_empty:
            self.merge_queues.pop(merge_queue.key, None)
