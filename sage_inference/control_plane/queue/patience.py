"""The time for which a request is reserved for the instance that has its prompt cached."""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import ExecutionInstance, SchedulingRequest

RESERVED_S = 1.0


def reserved_s(request: SchedulingRequest, group: Sequence[ExecutionInstance], now: float) -> float:
    """Half of the seconds that the request can wait and still be in time elsewhere, at most ``RESERVED_S``.

    A request that would be overdue on any other instance loses nothing by waiting.
    """
    elsewhere_s = request.prompt_tokens * min(i.load.ms_per_token for i in group) / 1000
    left = request.arrived + ttft_s(request) - elsewhere_s - now
    return RESERVED_S if left <= 0 else min(RESERVED_S, left / 2)
