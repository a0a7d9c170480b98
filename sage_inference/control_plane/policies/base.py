"""What a scheduling policy is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from sage_inference.types import ExecutionInstance, RequestMetadata, SchedulingDecision


class SchedulingPolicy(Protocol):
    """Chooses an instance for each request. Pure: no logging, socket, configuration or hidden clock.

    ``schedule`` is given only instances that may take the requests. Work placed in a call counts as load
    for the next request in the same call; a request that gets no decision stays with the caller.
    """

    name: str

    def schedule(
        self, requests: Sequence[RequestMetadata], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]: ...


class Loads:
    """Requests in flight per instance, with those placed in this call counted in."""

    __slots__ = ("_placed", "instances")

    def __init__(self, instances: Sequence[ExecutionInstance]) -> None:
        self.instances = instances
        self._placed: dict[str, int] = {}

    def of(self, instance: ExecutionInstance) -> float:
        """Load in requests, divided by the instance's weight."""
        placed = self._placed.get(instance.instance_id, 0) if self._placed else 0
        return (instance.active_requests + placed) / instance.weight

    def open(self) -> list[ExecutionInstance]:
        """Those with room for one more."""
        placed = self._placed
        return [i for i in self.instances if i.available_capacity > placed.get(i.instance_id, 0)]

    def place(self, request: RequestMetadata, instance: ExecutionInstance, why: str) -> SchedulingDecision:
        self._placed[instance.instance_id] = self._placed.get(instance.instance_id, 0) + 1
        return SchedulingDecision(request.request_id, instance.instance_id, why)


def one_by_one(
    requests: Iterable[RequestMetadata], loads: Loads, choose: _Choose, why: str
) -> list[SchedulingDecision]:
    """Place each request on ``choose``'s pick among those with room, until there is none."""
    decisions = []
    for request in requests:
        room = loads.open()
        if not room:
            break
        decisions.append(loads.place(request, choose(room, loads), why))
    return decisions


class _Choose(Protocol):
    def __call__(self, room: list[ExecutionInstance], loads: Loads, /) -> ExecutionInstance: ...
