"""The laws of ``control_plane.cost``, with the requests that one call has placed already counted in."""

from __future__ import annotations

from sage_inference.control_plane import cost
from sage_inference.control_plane.policies.base import Loads
from sage_inference.types import ExecutionInstance, SchedulingRequest


def first_byte_ms(request: SchedulingRequest, instance: ExecutionInstance, now: float, loads: Loads) -> float:
    backlog, pace = backlog_ms(instance, now, loads), loads.pace(instance)
    return cost.first_byte_ms(pace, backlog, cost.uncached(request, instance))


def cost_ms(request: SchedulingRequest, instance: ExecutionInstance, now: float, loads: Loads) -> float:
    backlog, pace = backlog_ms(instance, now, loads), loads.pace(instance)
    return cost.cost_ms(pace, backlog, cost.uncached(request, instance), loads.requests(instance))


def backlog_ms(instance: ExecutionInstance, now: float, loads: Loads) -> float:
    return cost.backlog_ms(loads.pace(instance), loads.tokens(instance), now - instance.load.progress_at)
