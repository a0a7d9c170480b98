"""What a scheduling policy is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sage_inference.control_plane.cost import even_paces, uncached
from sage_inference.control_plane.instances.load import has_slot
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

Clock = Callable[[], float]
Paces = dict[ExecutionInstance, float]  # milliseconds a token of each instance that may be chosen


class PlacementPolicy(Protocol):
    """Chooses an instance for each request. Pure: no logging, socket, configuration or hidden clock.

    ``schedule`` is given only instances that may take the requests. Work placed in a call counts as load
    for the next request in the same call; a request that gets no decision stays with the caller.

    ``order`` names the order in which requests wait (see ``waiting.orders``). With ``sticky`` a request that
    was sent to an instance holding its prompt waits a little for it, where it is busy.
    """

    name: str
    order: str
    sticky: bool

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]: ...


def paces_of(instances: Sequence[ExecutionInstance]) -> Paces:
    """The paces to reckon with, see ``even_paces``."""
    return dict(zip(instances, even_paces([i.load.ms_per_token for i in instances]), strict=True))


class Loads:
    """Requests in flight per instance, with those placed in this call counted in."""

    __slots__ = ("_paces", "_placed", "_tokens", "instances")

    def __init__(self, instances: Sequence[ExecutionInstance]) -> None:
        self.instances = instances
        self._placed: dict[ExecutionInstance, int] = {}
        self._tokens: dict[ExecutionInstance, int] = {}
        self._paces: Paces | None = None  # worked out when first asked for, because most policies do not ask

    def of(self, instance: ExecutionInstance) -> float:
        """Load in requests, divided by the instance's weight."""
        return (instance.active_requests + self._placed.get(instance, 0)) / instance.weight

    def requests(self, instance: ExecutionInstance) -> int:
        return instance.active_requests + self._placed.get(instance, 0)

    def tokens(self, instance: ExecutionInstance) -> int:
        """Prompt tokens that it has not begun."""
        return instance.load.pending_tokens + self._tokens.get(instance, 0)

    def pace(self, instance: ExecutionInstance) -> float:
        """Milliseconds a token to reckon with, see ``even_paces``."""
        if self._paces is None:
            self._paces = paces_of(self.instances)
        return self._paces[instance]

    def open(self) -> list[ExecutionInstance]:
        """Those with room for one more."""
        placed = self._placed
        return [i for i in self.instances if has_slot(i, placed.get(i, 0))]

    def place(
        self, request: SchedulingRequest, instance: ExecutionInstance, reason: str
    ) -> SchedulingDecision:
        self._placed[instance] = self._placed.get(instance, 0) + 1
        tokens = max(1, uncached(request, instance))
        self._tokens[instance] = self._tokens.get(instance, 0) + tokens
        return SchedulingDecision(request.request_id, instance.instance_id, reason, paces=self._paces)


def one_by_one(
    requests: Iterable[SchedulingRequest], loads: Loads, choose: Choose, reason: str
) -> list[SchedulingDecision]:
    """Place each request on ``choose``'s pick among those with room, until there is none."""
    decisions = []
    for request in requests:
        room = loads.open()
        if not room:
            break
        decisions.append(loads.place(request, choose(request, room, loads), reason))
    return decisions


class Choose(Protocol):
    def __call__(
        self, request: SchedulingRequest, room: list[ExecutionInstance], loads: Loads, /
    ) -> ExecutionInstance: ...
