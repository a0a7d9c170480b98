"""The cost of a request among several that one call places."""

from __future__ import annotations

from sage_inference.control_plane import cost
from sage_inference.control_plane.policies.base import Loads
from sage_inference.types import ExecutionInstance, SchedulingRequest


def backlog_ms(instance: ExecutionInstance, now: float, loads: Loads) -> float:
    """B, with what this call has placed."""
    return cost.backlog_ms(loads.pace(instance), loads.tokens(instance), now - instance.load.progress_at)


def prefill_ms(request: SchedulingRequest, instance: ExecutionInstance, loads: Loads) -> float:
    """k·(n − h): the prompt's own time, without what the instance has cached of it."""
    return loads.pace(instance) * _uncached(request, instance)


def cost_ms(request: SchedulingRequest, instance: ExecutionInstance, now: float, loads: Loads) -> float:
    """c, with what this call has placed."""
    backlog = backlog_ms(instance, now, loads)
    return cost.cost_ms(loads.pace(instance), backlog, _uncached(request, instance), loads.requests(instance))


def _uncached(request: SchedulingRequest, instance: ExecutionInstance) -> int:
    return request.prompt_tokens - request.cached_tokens.get(instance, 0)
