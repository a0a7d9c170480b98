"""A job: one caller's request as texts. A text is computed once for all jobs that want it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import Any, Protocol

from sage_inference.choices import Choice

INTERACTIVE_TEXTS = 8  # a request of so many texts or fewer has somebody waiting for it


class EmbeddingPriority(Choice, StrEnum):
    """How embeddings rank against generation where both share a GPU."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    ADAPTIVE = "adaptive"


class SentTexts(Protocol):
    """The batch that a text was sent in, as the text and its job need it."""

    @property
    def is_wanted(self) -> bool: ...

    def divided(self, texts: list[Text]) -> None: ...


class JobQueue(Protocol):
    """The queue of texts that a job entered, as the job needs it."""

    waiting: int

    def queue(self, job: EmbeddingJob) -> None: ...


class TextState(IntEnum):
    WAITING = 0
    SENT = 1
    GONE = 2  # has its vector, failed, or nobody wants it any more


class Text:
    """``raw`` is the text as JSON. ``wanted`` lists who wants its vector, and at which place.

    ``tokens`` is an estimate until the vector is there, then its share of what the engine counted.
    """

    __slots__ = ("batch", "interactive", "raw", "since", "state", "tokens", "wanted")

    def __init__(self, raw: bytes, tokens: int, since: float) -> None:
        self.raw = raw
        self.tokens = tokens
        self.since = since
        self.state = TextState.WAITING
        self.interactive = False  # whether an interactive request waits for it
        self.wanted: list[tuple[EmbeddingJob, int]] = []
        self.batch: SentTexts | None = None


class JobOwner(Protocol):
    """The caller of a job. It gets one call for the end, and others for progress in between.

    None of these may raise: others' jobs are next.
    """

    def finished(self) -> None: ...

    def failed(self, error: Any) -> None: ...

    def progressed(self) -> None: ...


class EmbeddingJob:
    """A caller's request. ``vectors`` and ``tokens`` are by place in the caller's input.

    It is ``undivided`` as long as nobody needs to look at its texts one by one: as a rule they are nobody else's,
    fit into one call, and need not be distinguished. Then ``state`` and ``batch`` are those of all its texts,
    and ``texts`` and ``pending`` are empty. ``MergeQueue.divide`` ends it.
    """

    __slots__ = (
        "arrived",
        "batch",
        "counts",
        "estimate",
        "merge_queue",
        "lined_up",
        "missing",
        "owner",
        "pending",
        "raws",
        "size",
        "state",
        "texts",
        "tokens",
        "vectors",
        "undivided",
    )

    def __init__(self, owner: JobOwner, raws: list[bytes]) -> None:
        self.owner = owner
        self.raws = raws
        self.counts: Sequence[int] = ()  # of tokens, estimated; ``estimate`` is their sum
        self.estimate = 0
        self.size = sum(map(len, raws))
        self.missing = len(raws)
        self.vectors: list[Any] = [None] * len(raws)
        self.tokens = [0] * len(raws)
        self.texts: list[Text] = []
        self.pending: deque[Text] = deque()  # those of its texts that were waiting when they were last seen
        self.merge_queue: JobQueue | None = None
        self.arrived = 0.0
        self.undivided = False
        self.lined_up = False  # counted among those that wait; a job that is sent at once never is
        self.state = TextState.WAITING
        self.batch: SentTexts | None = None

    @property
    def interactive(self) -> bool:
        return len(self.raws) <= INTERACTIVE_TEXTS

    @property
    def waits(self) -> bool:
        """Whether a text of it was not sent yet."""
        if self.undivided:
            return self.state is TextState.WAITING
        return any(text.state is TextState.WAITING for text in self.pending)

    def give(self, place: int, vector: Any, tokens: int) -> None:
        self.vectors[place] = vector
        self.tokens[place] = tokens
        self.missing -= 1
