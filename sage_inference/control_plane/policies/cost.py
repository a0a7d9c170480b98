"""What a request would cost an instance: the time until its first byte, and the work it adds."""

from __future__ import annotations

from sage_inference.control_plane.load import DECODE_TOKENS
from sage_inference.control_plane.policies.base import Loads
from sage_inference.types import ExecutionInstance, SchedulingRequest


def backlog_ms(instance: ExecutionInstance, now: float, loads: Loads) -> float:
    """B = max(0, k·Q − (now − mark)), with what this call has placed."""
    load = instance.load
    left = load.ms_per_token * loads.tokens(instance) - (now - load.progress_at) * 1000
    return left if left > 0.0 else 0.0


def prefill_ms(request: SchedulingRequest, instance: ExecutionInstance) -> float:
    """k·(n − h): the prompt's own time, without what the instance holds of it."""
    uncached = request.prompt_tokens - request.cached_tokens.get(instance, 0)
    return instance.load.ms_per_token * uncached


def cost_ms(request: SchedulingRequest, instance: ExecutionInstance, now: float, loads: Loads) -> float:
    """c = B + k·(n − h) + k·267·nin."""
    running = instance.load.ms_per_token * DECODE_TOKENS * loads.requests(instance)
    return backlog_ms(instance, now, loads) + prefill_ms(request, instance) + running
