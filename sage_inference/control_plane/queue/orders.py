"""The orders in which waiting requests are placed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from sage_inference.control_plane.queue.ageing import DEFERRED, STEADY, Ageing
from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import ExecutionInstance, RequestPriority, SchedulingRequest

AGING_S = 10.0  # a wait that makes up for one level of priority

# The milliseconds of a request's prompt on the fastest instance, with the prefixes that are cached now.
Predict = Callable[[SchedulingRequest, tuple[ExecutionInstance, ...]], float]
# A request is ordered as if its deadline were so many times its prompt's time later. So of the requests in time the shortest
# goes first, and a class with a near deadline stays before one with a far deadline.
SHORTEST_FIRST = 10.0


class Order(Protocol):
    """Puts requests into bands, and into an order within each. Times are seconds on the scheduler's clock.

    ``place`` returns the band, the key (least first) and the time from which the request is overdue. ``pick`` returns the
    next band, given the seniority of the most senior request in each (infinite: empty). That is its arrival, or in an order
    that ``defers`` the time when it is due. Such an order has overdue requests: the last two bands are theirs, the first of
    them for cheap ones. ``ageing`` bounds the wait of each request.
    """

    name: str
    bands: int
    defers: bool
    ageing: Ageing

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]: ...

    def pick(self, seniority: Sequence[float]) -> int: ...


class Fifo:
    """In order of arrival."""

    name = "fifo"
    bands = 1
    defers = False
    ageing = STEADY

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        return 0, request.arrived, math.inf

    def pick(self, seniority: Sequence[float]) -> int:
        return 0


class ByPriority:
    """By priority. Ten seconds of waiting make up for a level, so the least important are served, too."""

    name = "priority"
    bands = len(RequestPriority)
    defers = False
    ageing = STEADY

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        return int(request.priority), request.arrived, math.inf

    def pick(self, seniority: Sequence[float]) -> int:
        # Arrival + 10 s a level gives the order of the aged levels at any time.
        return min(range(len(seniority)), key=lambda level: seniority[level] + AGING_S * level)


LIVE, CHEAP, OVERDUE = 0, 1, 2


class EarliestDeadline:
    """Least slack first: the nearest deadline. A request whose deadline has passed never goes before others."""

    name = "slo_aware"
    bands = 3
    defers = True
    ageing = DEFERRED

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        deadline = request.arrived + ttft_s(request)
        return LIVE, deadline, deadline

    def pick(self, seniority: Sequence[float]) -> int:
        if seniority[LIVE] < math.inf:
            return LIVE
        return CHEAP if seniority[CHEAP] < math.inf else OVERDUE


class StillInTime(EarliestDeadline):
    """The shortest first among the requests that can still be in time, by the predicted time of their prompts.

    With one deadline for all, most of them are in time in this order (Moore, 1968).
    """

    name = "adaptive"

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        deadline, predicted_s = request.arrived + ttft_s(request), predicted_ms / 1000
        return LIVE, deadline + SHORTEST_FIRST * predicted_s, deadline - predicted_s


ORDERS: dict[str, Order] = {
    each.name: each for each in (Fifo(), ByPriority(), EarliestDeadline(), StillInTime())
}
