"""One engine call: the texts that go in it, and how to divide it when one of them is bad."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding.request import INTERACTIVE_TEXTS, EmbeddingJob, Text

if TYPE_CHECKING:
    from sage_inference.control_plane.embedding.merge_queue import MergeQueue


class EmbeddingBatch:
    """Texts of one merge queue, sent to an engine in one call. ``full``: no more would have fitted. ``bulk``: nobody waits
    for some of them.

    ``sole_job`` is the job that all of them are of, as long as it is undivided and nobody else wants any of them.
    """

    __slots__ = ("_texts", "bulk", "count", "full", "merge_queue", "size", "tokens", "sole_job")

    def __init__(
        self, merge_queue: MergeQueue, content: list[Text] | EmbeddingJob, *, full: bool = False
    ) -> None:
        self.full = full
        self.merge_queue = merge_queue
        self.sole_job: EmbeddingJob | None = None
        self._texts: list[Text] = []
        if isinstance(content, EmbeddingJob):
            self.sole_job = content
            self.count = len(content.raws)
            self.tokens = content.estimate
            self.size = content.size + self.count
            self.bulk = self.count > INTERACTIVE_TEXTS  # ``interactive`` of the job, without its call
            content.batch = self
            return
        self._texts = content
        self.count = len(content)
        self.bulk = not all(text.interactive for text in content)
        self.tokens = sum(text.tokens for text in content)
        self.size = sum(len(text.raw) + 1 for text in content)
        for text in content:
            text.batch = self

    def __len__(self) -> int:
        return self.count

    @property
    def padded_tokens(self) -> int:
        """The tokens that an engine computes if it takes every text to be as long as the longest."""
        counts = [text.tokens for text in self._texts] if self.sole_job is None else self.sole_job.counts
        return self.count * max(counts)

    @property
    def raws(self) -> list[bytes]:
        """The texts as JSON, in order."""
        return [text.raw for text in self._texts] if self.sole_job is None else self.sole_job.raws

    @property
    def texts(self) -> list[Text]:
        """The texts one by one. Reading this divides an undivided job."""
        if self.sole_job is not None:
            self.merge_queue.divide(self.sole_job)
        return self._texts

    def divided(self, texts: list[Text]) -> None:
        """The job is undivided no more: these are its texts."""
        self.sole_job = None
        self._texts = texts

    @property
    def jobs(self) -> list[EmbeddingJob]:
        """The jobs that want any of the texts, each once."""
        if self.sole_job is not None:
            return [self.sole_job]
        return list(dict.fromkeys(job for text in self._texts for job, _ in text.wanted))

    @property
    def is_wanted(self) -> bool:
        return self.sole_job is not None or any(text.wanted for text in self._texts)

    def original_of(self) -> EmbeddingJob | None:
        """The job whose texts these are, all of them and no others, and in its order; if there is one."""
        if self.sole_job is not None:
            return self.sole_job
        first = self.texts[0].wanted
        if len(first) != 1:
            return None
        job = first[0][0]
        if len(job.raws) != len(self.texts):
            return None
        for place, text in enumerate(self.texts):
            if len(text.wanted) != 1 or text.wanted[0] != (job, place):
                return None
        return job

    def halves(self) -> tuple[list[Text], list[Text]] | None:
        """Two parts with different callers, as equal as possible. None if all texts have the same callers.

        One bad text among m callers is so found in about log2(m) rounds, and never at more than two calls a
        caller; who sent it, alone, learns of it.
        """
        groups = [list(group) for _, group in groupby(_by_owner(self.texts), _owners)]
        if len(groups) < 2:
            return None
        left = groups[0]
        for group in groups[1:-1]:
            if len(left) + len(group) > (len(self.texts) + 1) // 2:
                break
            left = left + group
        taken = set(map(id, left))
        return left, [text for text in self.texts if id(text) not in taken]


def _owners(text: Text) -> tuple[int, ...]:
    return tuple(sorted({id(job) for job, _ in text.wanted}))


def _by_owner(texts: Iterable[Text]) -> list[Text]:
    """The texts in order, but those of the same callers together."""
    groups: dict[tuple[int, ...], list[Text]] = {}
    for text in texts:
        groups.setdefault(_owners(text), []).append(text)
    return [text for group in groups.values() for text in group]
