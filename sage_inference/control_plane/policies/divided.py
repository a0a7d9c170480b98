"""The hybrid policy with generation left to another policy. All other work goes where it costs least."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sage_inference.control_plane.policies.base import Clock, PlacementPolicy
from sage_inference.control_plane.policies.hybrid import Hybrid
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class DividedHybrid:
    """``llm`` places generation, and all requests wait in its order.

    Generation and other work of one ``schedule`` call do not count as load for each other.
    """

    name = "hybrid"

    def __init__(self, llm: PlacementPolicy, clock: Clock = time.monotonic) -> None:
        self.order = llm.order
        self.sticky = llm.sticky
        self._llm = llm
        self._others = Hybrid(clock, llm.order)

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        generation = [one for one in requests if one.request_type.is_llm]
        others = [one for one in requests if not one.request_type.is_llm]
        found = self._llm.schedule(generation, instances) if generation else []
        return [*found, *(self._others.schedule(others, instances) if others else ())]
