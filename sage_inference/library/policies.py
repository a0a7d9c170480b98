"""The scheduling policies as objects, which take requests and instances and return decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sage_inference.control_plane.cost import uncached
from sage_inference.control_plane.instances.gpu_sharing import is_mixed
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.policies.base import Clock, PlacementPolicy
from sage_inference.control_plane.queue.orders import ORDERS
from sage_inference.library.classifier import RequestClassifier
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import ExecutionInstance, RequestType, SchedulingDecision, SchedulingRequest


class SchedulingPolicy:
    """Chooses an instance for each of several requests. ``clock`` returns seconds.

    A placed request counts as load for the requests after it in the same call, and no longer. A request gets no
    decision if no available instance does its kind of work for its model, or all such instances are full.
    """

    name: str
    prefer_specialized = True  # instances that do one kind of work go before those that do both

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._classifier = RequestClassifier()
        self._inner = policy_named(self.name, clock)
        self.reset_metrics()

    def prioritize(self, requests: Sequence[RequestMetadata]) -> list[RequestMetadata]:
        """The requests in the order in which they are placed."""
        measured = [request.for_scheduling() for request in requests]
        return [requests[place] for place in in_order(measured, self._inner.order, self._clock())]

    def schedule(
        self, requests: Sequence[RequestMetadata], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        """Decisions in the order of ``prioritize``. Match them to requests by ``request_id``; some may have none."""
        by_id = {instance.instance_id: instance for instance in instances}
        decisions: list[SchedulingDecision] = []
        with counted_as_load(self._clock()) as place:
            for request in [each.for_scheduling() for each in self.prioritize(requests)]:
                decision = self._decide(request, self._candidates(request, instances))
                if decision is not None:
                    decisions.append(decision)
                    place(request, by_id[decision.target_instance_id])
        self._count(requests, decisions)
        return decisions

    def get_metrics(self) -> dict[str, Any]:
        """Counts since the object was made, or since ``reset_metrics``: calls, requests, and those placed or not."""
        return {**self._metrics, "by_instance": dict(self._by_instance)}

    def reset_metrics(self) -> None:
        """Begin to count at 0."""
        self._metrics = {"calls": 0, "requests": 0, "scheduled": 0, "unplaced": 0, "llm": 0, "embedding": 0}
        self._by_instance: dict[str, int] = {}

    def settings(self) -> dict[str, Any]:
        """The keys of ``scheduling`` that make a gateway decide in this way."""
        return {"policy": self.name}

    @property
    def placing(self) -> PlacementPolicy:
        """The part that a gateway uses: it places one request at a time."""
        return self._inner

    def _decide(
        self, request: SchedulingRequest, candidates: Sequence[ExecutionInstance]
    ) -> SchedulingDecision | None:
        return next(iter(self._inner.schedule((request,), candidates)), None) if candidates else None

    def _candidates(
        self, request: SchedulingRequest, instances: Sequence[ExecutionInstance]
    ) -> list[ExecutionInstance]:
        able = self._classifier.get_compatible_instances(request.request_type, instances)
        serving = [one for one in able if _serves(one, request.model)]
        special = [one for one in serving if not is_mixed(one)] if self.prefer_specialized else []
        return special or serving

    def _count(self, requests: Sequence[RequestMetadata], decisions: Sequence[SchedulingDecision]) -> None:
        placed = {decision.request_id for decision in decisions}
        self._metrics["calls"] += 1
        self._metrics["requests"] += len(requests)
        self._metrics["scheduled"] += len(decisions)
        self._metrics["unplaced"] += len(requests) - len(decisions)
        for request in requests:
            if request.request_id in placed:
                self._metrics["embedding" if request.request_type is RequestType.EMBEDDING else "llm"] += 1
        for decision in decisions:
            name = decision.target_instance_id
            self._by_instance[name] = self._by_instance.get(name, 0) + 1


class FIFOPolicy(SchedulingPolicy):
    """In order of arrival, each on the instance with the fewest requests in flight."""

    name = "fifo"


class PriorityPolicy(SchedulingPolicy):
    """In order of priority. Ten seconds of waiting count as much as one level."""

    name = "priority"


class SLOAwarePolicy(SchedulingPolicy):
    """Nearest deadline first, each on the instance with the earliest predicted first byte."""

    name = "slo_aware"


class CostOptimizedPolicy(SchedulingPolicy):
    """On the busiest instance that still meets the deadline, so that others can sleep."""

    name = "cost_optimized"


class AdaptivePolicy(SchedulingPolicy):
    """Requests that can still meet their deadline first, each on the instance with the least cost."""

    name = "adaptive"


def in_order(requests: Sequence[SchedulingRequest], order: str, now: float) -> list[int]:
    """The indexes of requests in the order in which they would be placed if all of them had a free slot."""
    rule = ORDERS[order]
    bands: list[list[tuple[float, float, int]]] = [[] for _ in range(rule.bands)]
    for number, request in enumerate(requests):
        band, key, until = rule.place(request, 0.0)
        overdue = until < now
        bands[min(band + overdue, rule.bands - 1)].append(
            (request.arrived if overdue else key, request.arrived, number)
        )
    for band_ in bands:
        band_.sort(reverse=True)
    found: list[int] = []
    while any(bands):
        oldest = [min((one[1] for one in band_), default=float("inf")) for band_ in bands]
        found.append(bands[rule.pick(oldest)].pop()[2])
    return found


@contextmanager
def counted_as_load(now: float) -> Iterator[Callable[[SchedulingRequest, ExecutionInstance], None]]:
    """A function that counts a request as running on an instance until the ``with`` block ends."""
    placed: list[Placement] = []

    def place(request: SchedulingRequest, instance: ExecutionInstance) -> None:
        tokens = max(1, uncached(request, instance))
        placed.append(Placement(instance, tokens, now))

    try:
        yield place
    finally:
        for placement in placed:
            placement.ended(now)


def _serves(instance: ExecutionInstance, model: str) -> bool:
    named = instance.models or ((instance.model_name,) if instance.model_name else ())
    return not model or not named or model in named
