"""The interface of scheduling policies, and the loads that they count with."""

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

    ``schedule`` gets only instances that may take the requests. Work that it placed counts as load for the next request of
    the same call. A request without a decision stays with the caller.

    ``order`` names the order in which requests wait, see ``queue.orders``. With ``sticky`` a request waits a little for
    the instance that has its prompt cached, if that is closed.
    """

    name: str
    order: str
    sticky: bool

    def schedule(
        self, requests: Sequence[SchedulingRequest], instances: Sequence[ExecutionInstance]
    ) -> list[SchedulingDecision]: ...


def paces_of(instances: Sequence[ExecutionInstance]) -> Paces:
    """The paces that policies use, see ``even_paces``."""
    return dict(zip(instances, even_paces([i.load.ms_per_token for i in instances]), strict=True))


class Loads:
    """Requests in flight on each instance, including those that this call has placed."""

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
        """Prompt tokens that the instance has not begun."""
        return instance.load.pending_tokens + self._tokens.get(instance, 0)

    def pace(self, instance: ExecutionInstance) -> float:
        """The milliseconds a token that policies use, see ``even_paces``."""
        if self._paces is None:
            self._paces = paces_of(self.instances)
        return self._paces[instance]

    def open(self) -> list[ExecutionInstance]:
        """The instances with a slot for one more request."""
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
    """Place each request on the instance that ``choose`` returns, until none has a slot."""
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
