"""One engine call: the texts that go in it, and how to divide it when one of them is bad."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding.job import Job, Text

if TYPE_CHECKING:
    from sage_inference.control_plane.embedding.lane import Lane


class EmbeddingBatch:
    """Texts of one lane on their way to an engine in one call. ``full``: it could not have taken more."""

    __slots__ = ("full", "lane", "size", "texts", "tokens")

    def __init__(self, lane: Lane, texts: list[Text], *, full: bool = False) -> None:
        self.full = full
        self.lane = lane
        self.texts = texts
        self.tokens = sum(text.tokens for text in texts)
        self.size = sum(len(text.raw) + 1 for text in texts)
        for text in texts:
            text.batch = self

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def jobs(self) -> list[Job]:
        """Those who want any of it, each once."""
        return list(dict.fromkeys(job for text in self.texts for job, _ in text.wanted))

    @property
    def is_wanted(self) -> bool:
        return any(text.wanted for text in self.texts)

    def whole_of(self) -> Job | None:
        """The job whose texts these are, all of them and no others, and in its order; if there is one."""
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
        """Divided between callers, as near to the middle as can be; None if it is all the same callers'.

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
    """In order, but those of the same callers together."""
    groups: dict[tuple[int, ...], list[Text]] = {}
    for text in texts:
        groups.setdefault(_owners(text), []).append(text)
    return [text for group in groups.values() for text in group]
