"""Policies that place by the predicted time to the first byte."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sage_inference.control_plane.policies.base import Clock, Loads, one_by_one
from sage_inference.control_plane.policies.cost import cost_ms, first_byte_ms
from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class SLOAware:
    """Least slack first, each where its first byte is predicted soonest."""

    name = "slo_aware"
    order = "slo_aware"
    sticky = False
    reason = "soonest first byte"

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        now = self._clock()

        def choose(
            request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
        ) -> ExecutionInstance:
            return self._choose(request, room, loads, now)

        return one_by_one(requests, Loads(instances), choose, self.reason)

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads, now: float
    ) -> ExecutionInstance:
        return min(room, key=lambda i: (first_byte_ms(request, i, now, loads), loads.requests(i)))


class Adaptive(SLOAware):
    """Requests that can still be in time by slack, overdue ones behind them; each where it costs least."""

    name = "adaptive"
    order = "adaptive"
    reason = "cheapest"

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads, now: float
    ) -> ExecutionInstance:
        return min(room, key=lambda i: cost_ms(request, i, now, loads))


class CostOptimized(SLOAware):
    """The busiest instance that is still in time, so that the others stay idle, and can sleep or be stopped."""

    name = "cost_optimized"
    order = "fifo"
    reason = "busiest that is in time"

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads, now: float
    ) -> ExecutionInstance:
        slo_ms = ttft_s(request) * 1000
        in_time = [i for i in room if cost_ms(request, i, now, loads) <= slo_ms]
        if not in_time:
            return min(room, key=lambda i: cost_ms(request, i, now, loads))
        return max(in_time, key=loads.requests)
