"""The orders in which waiting requests are placed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import ExecutionInstance, RequestPriority, SchedulingRequest

AGING_S = 10.0  # so long a wait makes up for one level of priority

# Milliseconds that a request's prompt takes where that is least, with what is cached now.
Predict = Callable[[SchedulingRequest, tuple[ExecutionInstance, ...]], float]
# A request's turn comes as if its deadline were so many times its prompt's time later: of those in time, the shortest
# goes first. The bound keeps a class with a near deadline before one with a far deadline.
SHORTEST_FIRST = 10.0


class Order(Protocol):
    """Puts requests into bands, and into an order within each; times are seconds on the manager's clock.

    ``place`` gives band, key (least first) and the time from which the request belongs into ``after``.
    ``pick`` names the next band, given the arrival of the oldest request in each (infinite: empty).
    ``defers`` is whether requests fall late: then the last two bands are theirs, the first of them for cheap ones.
    """

    name: str
    bands: int
    defers: bool

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]: ...

    def pick(self, oldest: Sequence[float]) -> int: ...


class Fifo:
    """In order of arrival."""

    name = "fifo"
    bands = 1
    defers = False

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        return 0, request.arrived, math.inf

    def pick(self, oldest: Sequence[float]) -> int:
        return 0


class ByPriority:
    """By priority; ten seconds of waiting make up for a level, so the least important are served too."""

    name = "priority"
    bands = len(RequestPriority)
    defers = False

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        return int(request.priority), request.arrived, math.inf

    def pick(self, oldest: Sequence[float]) -> int:
        # arrival + 10 s a level orders as the aged levels do, at any time.
        return min(range(len(oldest)), key=lambda level: oldest[level] + AGING_S * level)


LIVE, CHEAP, OVERDUE = 0, 1, 2


class EarliestDeadline:
    """Least slack first: the nearest deadline. A request whose deadline has passed never goes before others."""

    name = "slo_aware"
    bands = 3
    defers = True

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        deadline = request.arrived + ttft_s(request)
        return LIVE, deadline, deadline

    def pick(self, oldest: Sequence[float]) -> int:
        if oldest[LIVE] < math.inf:
            return LIVE
        return CHEAP if oldest[CHEAP] < math.inf else OVERDUE


class StillInTime(EarliestDeadline):
    """The shortest first among those that can still be in time, given how long their prompts take.

    With one deadline for all, that is the order in which the most of them are in time (Moore, 1968).
    """

    name = "adaptive"

    def place(self, request: SchedulingRequest, predicted_ms: float) -> tuple[int, float, float]:
        deadline, predicted_s = request.arrived + ttft_s(request), predicted_ms / 1000
        return LIVE, deadline + SHORTEST_FIRST * predicted_s, deadline - predicted_s


ORDERS: dict[str, Order] = {
    each.name: each for each in (Fifo(), ByPriority(), EarliestDeadline(), StillInTime())
}
