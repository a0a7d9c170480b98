"""Texts that may share a call (one model, one set of options), and the order in which they leave."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from itertools import islice

from sage_inference.control_plane.embedding.limits import CallLimits
from sage_inference.control_plane.embedding.padding import AlikeTexts
from sage_inference.control_plane.embedding.request import EmbeddingJob, Text, TextState

LOOK_AHEAD = 8  # calls: texts of about one length are chosen from so many calls' worth


class MergeQueue:
    """``model`` and ``route`` select the instances; ``key`` is equal for all texts of the queue.

    A text is in ``texts`` while it waits or is computed: who wants the same meanwhile shares it. In ``undivided``
    it is there by the job that it belongs to, until that is divided.
    """

    def __init__(self, key: Hashable, model: str, route: str) -> None:
        self.key = key
        self.model = model
        self.route = route
        # By their JSON: equal texts that wait or are being computed are one, so nothing is computed twice at a time.
        self.texts: dict[bytes, Text] = {}
        self.undivided: dict[bytes, EmbeddingJob] = {}
        # Sums over the texts that wait, kept up to date, because each pump asks for them.
        self.waiting = 0
        self.waiting_interactive = 0
        self.waiting_tokens = 0
        self.waiting_size = 0
        # Two lines, so that a person's few texts need not wait behind thousands of a document store.
        self._interactive: deque[EmbeddingJob] = deque()
        self._bulk: deque[EmbeddingJob] = deque()

    @property
    def in_line(self) -> int:
        """Requests with texts that may still wait."""
        return len(self._interactive) + len(self._bulk)

    @property
    def oldest(self) -> float:
        """When the first of those that wait came; infinite if none does."""
        # All bulk jobs, because ``take`` rotates them; interactive jobs stay in the order of their arrival.
        times = [job.arrived for job in self._bulk]
        if self._interactive:
            times.append(self._interactive[0].arrived)
        return min(times, default=float("inf"))

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits or is computed."""
        return not self.texts and not self.undivided

    def find(self, raw: bytes) -> Text | None:
        """The same text, if it waits or is being computed. The job that brought it is divided."""
        job = self.undivided.get(raw)
        # Two jobs want the text from now on, so it needs a list of its own of those that want it.
        if job is not None:
            self.divide(job)
        return self.texts.get(raw)

    def enter_undivided(self, job: EmbeddingJob) -> bool:
        """Enter a job as one. Returns False if a text of it is here already, or twice in the job."""
        # One dict operation for all texts: a ``Text`` of each is made only if the job is divided.
        raws = dict.fromkeys(job.raws, job)
        known = len(raws) < len(job.raws)
        if known or not (self.undivided.keys().isdisjoint(raws) and self.texts.keys().isdisjoint(raws)):
            return False
        self.undivided |= raws
        job.undivided = True
        return True

    def divide(self, job: EmbeddingJob) -> None:
        """Make single texts of an undivided job. Their places in line remain."""
        job.undivided = False
        for place, raw in enumerate(job.raws):
            del self.undivided[raw]
            self.texts[raw] = text = Text(raw, job.counts[place], job.arrived)
            # A job may be divided while its call is under way, when another job wants one of its texts.
            text.state, text.batch = job.state, job.batch
            text.interactive = job.interactive
            text.wanted.append((job, place))
            job.texts.append(text)
        if job.batch is not None:  # from here on the answer is divided, too
            job.batch.divided(list(job.texts))
            job.batch = None
        if job.state is TextState.WAITING:
            job.pending.extend(job.texts)
            if not job.lined_up:  # otherwise its texts were counted then
                for text in job.texts:
                    self._count(text, 1)

    def drop_undivided(self, job: EmbeddingJob) -> None:
        """The call of an undivided job ended."""
        for raw in job.raws:
            del self.undivided[raw]
        job.undivided = False
        job.state, job.batch = TextState.GONE, None

    def all_waiting(self) -> list[Text]:
        """All texts that wait, one by one: undivided jobs are divided."""
        for job in dict.fromkeys(self.undivided.values()):
            if job.state is TextState.WAITING:
                self.divide(job)
        return [text for text in self.texts.values() if text.state is TextState.WAITING]

    def enter(self, job: EmbeddingJob, text: Text) -> None:
        """Enter a new text, which waits."""
        self.texts[text.raw] = text
        text.interactive = job.interactive
        job.pending.append(text)
        self._count(text, 1)

    def promote(self, job: EmbeddingJob, text: Text) -> None:
        """Move a bulk text forward, because an interactive request wants it too."""
        # Uncounted before, counted after: the sums are kept by kind.
        self._count(text, -1)
        text.interactive = True
        self._count(text, 1)
        job.pending.append(text)

    def queue(self, job: EmbeddingJob) -> None:
        """Line a job up, with all of its texts or with those that are pending."""
        if job.undivided:
            self._count_undivided(job, 1)
        elif not job.pending:  # all of its texts wait for other jobs, or are being computed
            return
        job.lined_up = True
        self._line(job).append(job)

    def drop(self, text: Text) -> None:
        """Forget a text that nobody wants any more, or whose vector came."""
        if text.state is TextState.WAITING:
            self._count(text, -1)
        text.state, text.batch = TextState.GONE, None
        # Another text of the same content may have entered since.
        if self.texts.get(text.raw) is text:
            del self.texts[text.raw]

    def remove(self, job: EmbeddingJob) -> None:
        """Remove a job from the line. Its texts stay if others want them."""
        line = self._line(job)
        if job in line:  # not there if all of its texts were sent
            line.remove(job)

    def put_back(self, texts: list[Text]) -> None:
        """Return texts that were taken but not computed to the front, each under a job that wants it."""
        # Reversed, because each goes to the front: their order remains.
        for text in reversed(texts):
            if not text.wanted:  # its callers left while it was being computed
                self.drop(text)
                continue
            text.state, text.batch = TextState.WAITING, None
            job, line = self._assign(text)
            job.pending.appendleft(text)
            if job not in line:
                line.appendleft(job)

    def reassign(self, text: Text) -> None:
        """Move a waiting text to another job that wants it, because the job that brought it left."""
        self._count(text, -1)
        job, line = self._assign(text)
        job.pending.append(text)
        if job not in line:
            line.append(job)

    def _assign(self, text: Text) -> tuple[EmbeddingJob, deque[EmbeddingJob]]:
        """Count a waiting text for the job that needs it soonest. Returns that job, and the line where it stands."""
        job = _keenest(text)
        text.interactive = job.interactive
        self._count(text, 1)
        return job, self._line(job)

    def _line(self, job: EmbeddingJob) -> deque[EmbeddingJob]:
        return self._interactive if job.interactive else self._bulk

    def fills(self, limits: CallLimits, *, bulk: bool = True) -> bool:
        """Whether enough texts wait for a call that could not take more."""
        if not bulk:  # tokens and bytes are not summed by kind, so only the number of texts decides
            return bool(limits.texts and self.waiting_interactive >= limits.texts)
        return (
            bool(limits.texts and self.waiting >= limits.texts)
            or self.waiting_tokens >= limits.tokens
            or bool(limits.size and self.waiting_size >= limits.size)
        )

    def take(
        self, limits: CallLimits, *, bulk_first: bool = False, bulk: bool = True
    ) -> list[Text] | EmbeddingJob:
        """Take the texts of a call within ``limits``; at least one if any waits. ``bulk``: bulk texts as well.

        They are a job where an undivided one goes alone.
        """
        # In a call with bulk texts a person would wait for these as well. A serial engine has no room for a call beside it.
        mixes = limits.serial or limits.pads
        queues = [self._interactive, self._bulk] if bulk else [self._interactive]
        if bulk_first:
            queues.reverse()
        # Do not divide a request that is alone: undivided, it is relayed as it came, without reading its vectors.
        if limits.padding < math.inf and (self.in_line > 1 or self.fills(limits)):
            return self._take_alike(limits, queues)
        call = _Filling(self, limits)
        for queue in queues:
            if call.count and not mixes:
                break
            while queue:
                before = call.count
                if not self._fill(call, queue[0]):
                    if queue is self._bulk and call.count > before:
                        queue.rotate(-1)  # so that one long request does not hold up the others
                    return call.content
                queue.popleft()
        return call.content

    def _take_alike(self, limits: CallLimits, queues: list[deque[EmbeddingJob]]) -> list[Text]:
        """Take the first text in line, and those of the next ones that have about its length."""
        call: AlikeTexts | None = None
        seen: dict[Text, EmbeddingJob] = {}
        for queue in queues:
            next_ones = islice(self._waiting(queue), LOOK_AHEAD * limits.texts)
            found = {text: job for text, job in next_ones if text not in seen}
            seen |= found
            texts = list(found)
            if call is None and texts:
                call = AlikeTexts(limits, texts.pop(0))
            if call is not None and not call.extend(texts):
                break
        # In the order of the line: a call that is one job's texts, in its order, is relayed as it came.
        chosen = set(call.texts) if call else set()
        for text in chosen:
            self._count(text, -1)
            text.state = TextState.SENT
        self._close_gaps({seen[text] for text in chosen})
        return [text for text in seen if text in chosen]

    def _waiting(self, queue: deque[EmbeddingJob]) -> Iterator[tuple[Text, EmbeddingJob]]:
        for job in queue:
            if job.undivided:
                self.divide(job)
            for text in job.pending:
                if text.state is TextState.WAITING:
                    yield text, job

    def _close_gaps(self, jobs: set[EmbeddingJob]) -> None:
        """Remove jobs from the line that have no text left in it. A bulk request that was first moves to the end."""
        for job in jobs:
            job.pending = deque(text for text in job.pending if text.state is TextState.WAITING)
        if self._bulk and self._bulk[0] in jobs:
            self._bulk.rotate(-1)
        for queue in (self._interactive, self._bulk):
            # The jobs of a call may stand in either line.
            for job in jobs:
                if not job.pending and job in queue:
                    queue.remove(job)
            while queue and not queue[0].waits:
                queue.popleft()  # its texts were sent with other jobs that want them

    def _fill(self, call: _Filling, job: EmbeddingJob) -> bool:
        """Add the waiting texts of a job. Returns whether all of them fitted."""
        if job.undivided:
            if call.begin_with(job):  # nobody else is in the call yet, and the job may stay undivided
                self._count_undivided(job, -1)
                job.state = TextState.SENT
                return True
            # Divided only if at least its first text fits: an undivided job is cheaper to count, share and relay. A bulk
            # request that makes a call by itself is not cut to fill the rest of another one.
            if not call.admits(job, 1, job.counts[0], len(job.raws[0]) + 1) or call.would_cut(job):
                return False
            self.divide(job)
        while job.pending:
            text = job.pending[0]
            if text.state is TextState.WAITING:
                if not call.add(job, text):
                    return False
                self._count(text, -1)
                text.state = TextState.SENT
            job.pending.popleft()
        return True

    def _count(self, text: Text, sign: int) -> None:
        self.waiting += sign
        self.waiting_interactive += sign * text.interactive
        self.waiting_tokens += sign * text.tokens
        self.waiting_size += sign * (len(text.raw) + 1)  # and the comma behind it

    def _count_undivided(self, job: EmbeddingJob, sign: int) -> None:
        texts = len(job.raws)
        self.waiting += sign * texts
        self.waiting_interactive += sign * texts * job.interactive
        self.waiting_tokens += sign * job.estimate
        self.waiting_size += sign * (job.size + texts)


def _keenest(text: Text) -> EmbeddingJob:
    """The job that needs the text soonest."""
    return next((job for job, _ in text.wanted if job.interactive), text.wanted[0][0])


class _Filling:
    """The texts of a call while it is being filled."""

    def __init__(self, merge_queue: MergeQueue, limits: CallLimits) -> None:
        self.count = 0
        self._merge_queue = merge_queue
        self._limits = limits
        self._tokens = self._size = 0
        self._texts: list[Text] = []
        self._undivided: EmbeddingJob | None = None
        self._job: EmbeddingJob | None = None  # whose texts they are, as long as they are all of one

    @property
    def content(self) -> list[Text] | EmbeddingJob:
        return self._texts if self._undivided is None else self._undivided

    def admits(self, job: EmbeddingJob, count: int, tokens: int, size: int) -> bool:
        """Whether so much more of a job fits. A first text always does: only the engine can refuse it."""
        if not self.count and count == 1:
            return True
        admit = self._limits.admit if self._job is not job and self.count else self._limits.admit_request
        return admit(self.count + count, self._tokens + tokens, self._size + size)

    def begin_with(self, job: EmbeddingJob) -> bool:
        """Take an undivided job; False if something is in already, or the job is too large."""
        count = len(job.raws)
        if self.count or not self.admits(job, count, job.estimate, job.size + count):
            return False
        self._undivided = self._job = job
        self._add(count, job.estimate, job.size + count)
        return True

    def would_cut(self, job: EmbeddingJob) -> bool:
        """Whether only a part of a bulk job fits, which as a whole fits in a call of its own."""
        count, limits = len(job.raws), self._limits
        size = job.size + count
        return (
            bool(self.count)
            and not (job.interactive or limits.serial)
            and limits.admit_request(count, job.estimate, size)
            and not limits.admit(self.count + count, self._tokens + job.estimate, self._size + size)
        )

    def add(self, job: EmbeddingJob, text: Text) -> bool:
        size = len(text.raw) + 1
        if not self.admits(job, 1, text.tokens, size):
            return False
        self._job = job if self._job is job or not self.count else None
        # A second job joins, so the call has texts of two callers, each with a place of its own.
        if self._undivided is not None:
            self._merge_queue.divide(self._undivided)
            self._texts, self._undivided = list(self._undivided.texts), None
        self._texts.append(text)
        self._add(1, text.tokens, size)
        return True

    def _add(self, count: int, tokens: int, size: int) -> None:
        self.count += count
        self._tokens += tokens
        self._size += size
