"""The rule of llm-d's router (endpoint picker), as it is configured by default.

Sources: https://github.com/llm-d/llm-d-router, ``pkg/epp/config/loader/defaults.go`` at 0b59e4e (the scorers and their
weights), ``pkg/epp/framework/plugins/scheduling/``: ``scorer/queuedepth/queue.go`` at 2342697,
``scorer/kvcacheutilization/README.md`` at e05ae34, ``scorer/prefix/README.md`` at 068b68d,
``picker/maxscore/picker.go`` at 0fa77a0; ``pkg/epp/framework/plugins/requestcontrol/dataproducer/approximateprefix/README.md``
at 56cd7ac (what counts as cached).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.replay.llm_engine import LLMEngine
from sage_inference.replay.run import Run
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

QUEUE_WEIGHT = 2.0
KV_CACHE_UTILIZATION_WEIGHT = 2.0
PREFIX_CACHE_WEIGHT = 3.0
MAX_PREFIX_TOKENS = 131_072  # maxPrefixTokensToMatch
REFRESH_MS = 50.0  # engines' metrics are read this often (--refresh-metrics-interval)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an engine reports: requests that it has not admitted, and the share of its KV memory in use."""

    waiting: int
    kv_used: float


class LLMD:
    """The highest of 2 · queue + 2 · kv_cache_utilization + 3 · prefix_cache.

    queue: (most − waiting) / (most − least), 1 where all are equal. kv_cache_utilization: 1 − the share in use.
    prefix_cache: the share of the prompt that is likely cached. Equal scores take turns.
    """

    name = "llm-d"
    order = "fifo"
    sticky = False

    def __init__(self, read: Callable[[ExecutionInstance], Metrics], now_ms: Callable[[], float]) -> None:
        self._read = read
        self._now_ms = now_ms
        self._metrics: dict[ExecutionInstance, Metrics] = {}
        self._read_at = -REFRESH_MS
        self._turn = 0

    @classmethod
    def of(cls, run: Run) -> LLMD:
        def read(instance: ExecutionInstance) -> Metrics:
            engine = run.engines[instance.instance_id]
            assert isinstance(engine, LLMEngine)
            return Metrics(len(engine.waiting), engine.cache.used / engine.cache.tokens)

        return cls(read, lambda: run.events.now)

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        if self._now_ms() >= self._read_at + REFRESH_MS:
            self._metrics = {i: self._read(i) for i in instances}
            self._read_at = self._now_ms()
        return one_by_one(requests, Loads(instances), self._choose, "highest score")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        scores = self.scores(request, room)
        highest = max(scores)
        best = [i for i, score in zip(room, scores, strict=True) if score == highest]
        self._turn += 1
        return best[self._turn % len(best)]

    def scores(self, request: SchedulingRequest, room: Sequence[ExecutionInstance]) -> list[float]:
        metrics = [self._metrics.get(i) or self._read(i) for i in room]
        least, most = min(m.waiting for m in metrics), max(m.waiting for m in metrics)
        return [
            QUEUE_WEIGHT * ((most - m.waiting) / (most - least) if most > least else 1.0)
            + KV_CACHE_UTILIZATION_WEIGHT * (1 - m.kv_used)
            + PREFIX_CACHE_WEIGHT * _matched(request, i)
            for i, m in zip(room, metrics, strict=True)
        ]


def _matched(request: SchedulingRequest, instance: ExecutionInstance) -> float:
    total = min(request.prompt_tokens, MAX_PREFIX_TOKENS)
    return min(request.cached_tokens.get(instance, 0), total) / max(1, total)
