"""Policies that look at little or nothing: round robin, random, and the better of two at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sage_inference.control_plane.policies.base import Loads, one_by_one
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest


class RoundRobin:
    """Each instance in turn, whatever its load."""

    name = "round_robin"
    order = "fifo"
    sticky = False

    def __init__(self) -> None:
        self._rotation = -1

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._choose, "next in turn")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        self._rotation += 1
        return room[self._rotation % len(room)]


class Random:
    """Any instance, evenly."""

    name = "random"
    order = "fifo"
    sticky = False

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._choose, "drawn")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        return self._rng.choice(room)


class PowerOfTwo:
    """Place each request on the less loaded of two instances drawn at random.

    Close to least-loaded at constant cost, and it does not herd when load figures are stale
    (Mitzenmacher, "The Power of Two Choices", 2001).
    """

    name = "power_of_two"
    order = "fifo"
    sticky = False

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]:
        return one_by_one(requests, Loads(instances), self._choose, "less loaded of two")

    def _choose(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads
    ) -> ExecutionInstance:
        return min(self._rng.sample(room, min(2, len(room))), key=loads.of)
