"""A simulated clock, instances that take a while for a call, and callers that come and go."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sage_inference.control_plane.embedding import (
    AggregationRules,
    Batcher,
    CallLimits,
    CallWindow,
    EmbeddingBatch,
    EmbeddingJob,
)
from sage_inference.control_plane.embedding.merge_queue import MergeQueue


def vector_of(raw: bytes) -> bytes:
    return b"vector of " + raw


def cost_of(raw: bytes) -> int:
    return len(raw)


@dataclass(eq=False)
class SimulatedCaller:
    """A caller: the texts it asked for, and the vectors or the error it got. The batcher has it as the job's owner."""

    texts: list[str]
    bad: bool = False
    ended: str = ""
    error: Any = None
    job: EmbeddingJob = field(init=False)

    def __post_init__(self) -> None:
        self.job = EmbeddingJob(self, [json.dumps(text).encode() for text in self.texts])

    def finished(self) -> None:
        assert not self.ended
        self.ended = "finished"

    def failed(self, error: Any) -> None:
        assert not self.ended
        self.ended = "failed"
        self.error = error

    def progressed(self) -> None:
        assert not self.ended


@dataclass(frozen=True)
class Sent:
    at: float
    instance: str
    texts: tuple[bytes, ...]
    tokens: int
    size: int


class World:
    """Every instance answers a call after ``seconds``; a call with a bad text is refused as a whole."""

    def __init__(
        self,
        limits: dict[str, CallLimits],
        rules: AggregationRules,
        seconds: float = 0.01,
        *,
        at_once: bool = False,  # whether a request may go before it lines up, as it does to an only instance
    ) -> None:
        self.now = 0.0
        self.batcher = Batcher(rules)
        self.windows = {name: CallWindow(one) for name, one in limits.items()}
        self.seconds = seconds
        self.at_once = at_once
        self._alone: EmbeddingJob | None = None  # came since the last pump, alone
        self.sent: list[Sent] = []
        self.computed: list[bytes] = []
        self.callers: list[SimulatedCaller] = []
        self.bad: set[bytes] = set()
        self._flying: dict[EmbeddingBatch, str] = {}
        self.on_idle: Callable[[], None] = lambda: None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, time: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, act))

    def arrive(self, caller: SimulatedCaller, key: str = "queue") -> None:
        self.callers.append(caller)
        raws = caller.job.raws
        if caller.bad:
            self.bad.add(raws[-1])
        self._line_up_alone()
        job, window = caller.job, next(iter(self.windows.values()))
        self.batcher.enter(job, key, "m", "/v1/embeddings", [len(r) for r in raws], self.now)
        full = window.is_filled_by(job, self.batcher.rules.max_texts)
        if self.at_once and full and self._send_undivided(job, full=True):
            return
        if self.at_once and not full and job.undivided and not self.batcher.waits:
            self._alone = job
        else:
            self.batcher.line_up(job)

    def _line_up_alone(self) -> None:
        job, self._alone = self._alone, None
        if job is not None:
            self.batcher.line_up(job)

    def _send_undivided(self, job: EmbeddingJob, *, full: bool) -> bool:
        name, window = next(iter(self.windows.items()))
        if not self.batcher.may_send_undivided(job, window, self.now, full=full):
            return False
        self._send(self.batcher.send_undivided(job, window, self.now, full=full), name)
        return True

    def leave(self, caller: SimulatedCaller) -> None:
        if not caller.ended:
            caller.ended = "left"
            if self._alone is caller.job:
                self._alone = None
            self._abort(self.batcher.leave(caller.job))

    def run(self) -> None:
        """Until nothing happens any more."""
        while self._events:
            self.now = self._events[0][0]
            while self._events and self._events[0][0] == self.now:
                heapq.heappop(self._events)[2]()
            self.pump()
            self.on_idle()

    def pump(self) -> None:
        if self._alone is not None and not self._send_undivided(self._alone, full=False):
            self._line_up_alone()
        self._alone = None
        sent = True
        while sent:
            sent = False
            for queue in self.batcher.waiting_queues(self.now):
                while queue.waiting and (window := self.open_window(queue)):
                    batch = self.batcher.take(queue, self.windows[window], self.now)
                    assert batch is not None
                    self._send(batch, window)
                    sent = True
        due = self.batcher.next_due(self.now)
        if due is not None:
            self.at(due, lambda: None)

    def open_window(self, queue: MergeQueue) -> str | None:
        found = [n for n, window in self.windows.items() if self.batcher.is_open(queue, window, self.now)]
        return min(found, key=lambda name: self.windows[name].tokens, default=None)

    def _abort(self, batches: list[EmbeddingBatch]) -> None:
        for batch in batches:
            self.windows[self._flying.pop(batch)].ended(batch)
            self.batcher.abandon(batch)

    def _send(self, batch: EmbeddingBatch, name: str) -> None:
        self._flying[batch] = name
        self.sent.append(Sent(self.now, name, tuple(batch.raws), batch.tokens, batch.size))
        self.at(self.now + self.seconds, lambda: self._answer(batch, name))

    def _answer(self, batch: EmbeddingBatch, name: str) -> None:
        if batch not in self._flying:
            return  # it was broken off
        window = self.windows[self._flying.pop(batch)]
        window.ended(batch)
        raws = batch.raws
        if not self.bad.intersection(raws):
            self.computed += raws
            self._hand_out(batch, [vector_of(raw) for raw in raws], list(map(cost_of, raws)))
            return
        halves = self.batcher.halve(batch)
        if halves is None:
            self._abort(self.batcher.fail(batch, "refused"))
            return
        for half in halves:
            again = self.batcher.resend(half, window)
            if again is not None:
                self._send(again, name)

    def _hand_out(self, batch: EmbeddingBatch, vectors: list[bytes], costs: list[int]) -> None:
        job = batch.original_of()
        if job is None or self.batcher.cache.max_bytes:
            self.batcher.done(batch, vectors, costs)
            return
        # Its only caller gets the engine's answer as it is.
        for place, vector in enumerate(vectors):
            job.give(place, vector, costs[place])
        self.batcher.relayed(batch, job)
        job.owner.finished()
