"""The instance with the fewest requests in flight."""

from __future__ import annotations

from collections.abc import Sequence

from sage_inference.control_plane.instances.load import has_slot
from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class LeastLoaded:
    """Place each request where the fewest are in flight for the instance's weight.

    Instances with equal loads take turns, so that idle ones share the work and all keep a warm connection.
    """

    name = "least_loaded"
    order = "fifo"
    sticky = False

    def __init__(self) -> None:
        self._rotation = 0

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        if len(instances) == len(requests) == 1:  # the usual case of a workstation, made short
            only = instances[0]
            if not has_slot(only):
                return []
            return [SchedulingDecision(requests[0].request_id, only.instance_id, "only instance")]
        return one_by_one(requests, Loads(instances), self._least, "fewest in flight")

    def _least(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        self._rotation += 1
        start = self._rotation % len(room)
        return min(room[start:] + room[:start], key=loads.of)
