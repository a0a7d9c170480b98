"""Modelled engines on virtual time behind one window of calls, and callers in closed loops or by the clock."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sage_inference.control_plane.embedding import (
    AggregationRules,
    Batcher,
    CallLimits,
    CallWindow,
    EmbeddingBatch,
    EmbeddingJob,
)
from sage_inference.replay.events import Events
from sage_inference.replay.pooling_engine import PoolingEngine

THINK_MS = 1.0
Answer = Callable[[], None]
Work = Callable[[int, int, Answer], None]  # texts, tokens, and what to do with the answer


class _Answered:
    def __init__(self, answer: Answer) -> None:
        self.finished = answer


def vllm(events: Events, rng: random.Random) -> Work:
    engine = PoolingEngine(events)
    return lambda texts, tokens, answer: engine.submit(tokens, _Answered(answer), texts)


@dataclass
class Stages:
    """Stages that each work on one call at a time; ``stages`` are milliseconds of a call and of a token.

    ``noise`` is the spread of their times: a call takes up to so much more or less.
    """

    events: Events
    stages: Sequence[tuple[float, float]]
    rng: random.Random
    noise: float = 0.0
    free_at: list[float] = field(default_factory=list)

    def __call__(self, texts: int, tokens: int, answer: Answer) -> None:
        self.free_at = self.free_at or [0.0] * len(self.stages)
        self._enter(0, tokens, answer)

    def _enter(self, stage: int, tokens: int, answer: Answer) -> None:
        if stage == len(self.stages):
            answer()
            return
        call_ms, token_ms = self.stages[stage]
        took = (call_ms + token_ms * tokens) * self.rng.uniform(1 - self.noise, 1 + self.noise)
        self.free_at[stage] = max(self.free_at[stage], self.events.now) + took
        self.events.at(self.free_at[stage], partial(self._enter, stage + 1, tokens, answer))


@dataclass(eq=False)
class Caller:
    """``every_ms``: when it asks by the clock; otherwise as soon as it has its answer."""

    house: House
    texts: int
    tokens: int
    every_ms: float | None = None
    latencies: list[tuple[float, float]] = field(default_factory=list)  # when answered, and after which time
    stopped: bool = False

    def ask(self) -> None:
        if self.stopped:
            return
        self.house.submit(_Request(self))
        if self.every_ms is not None:
            self.house.events.at(self.house.events.now + self.every_ms, self.ask)

    def p99(self, since: float = 0.0) -> float:
        found = sorted(took for at, took in self.latencies if at >= since)
        return found[min(len(found) - 1, int(0.99 * len(found)))]

    def texts_per_s(self, since: float = 0.0, until: float = float("inf")) -> float:
        until = min(until, self.house.events.now)
        return 1000 * self.texts * sum(since < at <= until for at, _ in self.latencies) / (until - since)


class _Request:
    """The owner of one job."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.began = caller.house.events.now

    def finished(self) -> None:
        caller, events = self.caller, self.caller.house.events
        caller.latencies.append((events.now, events.now - self.began))
        if caller.every_ms is None:
            events.at(events.now + THINK_MS, caller.ask)

    def failed(self, error: Any) -> None:
        raise AssertionError(error)

    def progressed(self) -> None:
        pass


class House:
    """One engine. ``gateway`` False: the callers ask it themselves, each request in a call of its own."""

    def __init__(
        self,
        engine: Callable[[Events, random.Random], Work],
        limits: CallLimits | None = None,
        *,
        gateway: bool = True,
        seed: int = 1,
    ) -> None:
        self.events = Events()
        self.engine = engine(self.events, random.Random(seed))
        self.gateway = gateway
        self.batcher = Batcher(AggregationRules())
        self.window = CallWindow(limits or CallLimits())
        self.calls = 0
        self.windows: list[tuple[float, int]] = []  # the window over time
        self._number = 0
        self._pumps = False

    def caller(self, texts: int, tokens: int, *, every_ms: float | None = None, at_ms: float = 0.0) -> Caller:
        made = Caller(self, texts, tokens, every_ms)
        self.events.at(at_ms, made.ask)
        return made

    def run(self, seconds: float) -> None:
        until = self.events.now + 1000 * seconds
        while self.events.now < until and self.events.step():
            pass

    def submit(self, request: _Request) -> None:
        caller = request.caller
        if not self.gateway:
            self.engine(caller.texts, caller.texts * caller.tokens, request.finished)
            return
        self._number += 1
        job = EmbeddingJob(request, [json.dumps(f"{self._number} {n}").encode() for n in range(caller.texts)])
        now = self.events.now / 1000
        self.batcher.enter(job, "queue", "m", "/v1/embeddings", [caller.tokens] * caller.texts, now)
        full = self.window.is_filled_by(job, self.batcher.rules.max_texts)
        if full and self.batcher.may_send_undivided(job, self.window, now, full=True):
            self._send(self.batcher.send_undivided(job, self.window, now, full=True))
            return
        self.batcher.line_up(job)
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumps:
            self._pumps = True
            self.events.at(self.events.now, self._pump)

    def _pump(self) -> None:
        self._pumps = False
        now = self.events.now / 1000
        for queue in self.batcher.waiting_queues(now):
            while queue.waiting and self.batcher.is_open(queue, self.window, now):
                batch = self.batcher.take(queue, self.window, now)
                assert batch is not None
                self._send(batch)

    def _send(self, batch: EmbeddingBatch) -> None:
        self.calls += 1
        sent_at = self.events.now / 1000
        self.engine(len(batch), batch.tokens, lambda: self._answer(batch, sent_at))

    def _answer(self, batch: EmbeddingBatch, sent_at: float) -> None:
        now = self.events.now / 1000
        self.window.ended(batch)
        self.window.answered(batch, sent_at, now)
        if not self.windows or self.windows[-1][1] != self.window.learned.calls:
            self.windows.append((now, self.window.learned.calls))
        if batch.sole_job is not None:
            job = batch.sole_job
            self.batcher.relayed(batch, job)
            job.owner.finished()
        else:
            self.batcher.done(batch, [b"v"] * len(batch), [1] * len(batch))
        self._pump_soon()
