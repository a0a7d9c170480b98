"""Takes requests, places them or lets them wait, and counts what runs where."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.policies.base import SchedulingPolicy
from sage_inference.control_plane.rates import Rates, retry_after_s
from sage_inference.control_plane.refusal import Refusal, Why
from sage_inference.control_plane.registry import Registry
from sage_inference.types import EngineState, ExecutionInstance, RequestMetadata, SchedulingDecision

_READY = EngineState.READY


class Ticket(Protocol):
    """A request on its way, as the manager sees it: it is told where to go, and reports back."""

    request: RequestMetadata
    size: int  # bytes it holds while it waits

    @property
    def tried(self) -> tuple[ExecutionInstance, ...]:
        """Where it already failed, or must not go."""

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None: ...

    def refused(self, refusal: Refusal) -> None: ...


class ControlPlaneManager:
    """Places each submitted request, at once or when a slot frees.

    A placed request holds a slot of its instance until ``release``. Waiting requests leave by being
    placed or by ``withdraw``; the caller times them.
    """

    def __init__(
        self,
        registry: Registry,
        policy: SchedulingPolicy,
        limits: LimitSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.policy = policy
        self.limits = limits
        self.rates = Rates()
        self._clock = clock
        self._waiting: dict[Ticket, None] = {}  # in order of arrival; a dict so that leaving is O(1)
        self._waiting_bytes = 0

    @property
    def queued(self) -> int:
        return len(self._waiting)

    def submit(self, ticket: Ticket) -> None:
        """Place the request now, or queue it. Raises ``Refusal`` when neither is possible."""
        self.rates.submitted += 1
        if not self._place(ticket, self._group(ticket.request)):
            self._enqueue(ticket)

    def can_retry(self, ticket: Ticket) -> bool:
        """Whether there is another instance to try, and the retry budget allows it."""
        if not self.rates.may_retry():
            return False
        request = ticket.request
        return bool(_candidates(self.registry.group(request.effective_model_name, request.route), ticket))

    def retry(self, ticket: Ticket) -> None:
        """Place a released request elsewhere than where it was tried, or queue it again."""
        self.rates.retried += 1
        request = ticket.request
        if not self._place(ticket, self.registry.group(request.effective_model_name, request.route)):
            self._enqueue(ticket)

    def release(self, instance: ExecutionInstance) -> None:
        """A slot is free again: hand it to the oldest request that can use it."""
        instance.active_requests -= 1
        self.rates.finished += 1
        if self._waiting:
            self.dispatch()

    def withdraw(self, ticket: Ticket) -> None:
        """The request no longer waits: its caller left or its time is up."""
        if self._waiting.pop(ticket, ticket) is None:
            self._waiting_bytes -= ticket.size

    def dispatch(self) -> None:
        """Place what waits and now can be: after a release, a recovery, an added instance."""
        full: set[tuple[str, str]] = set()  # groups found without room: their later requests need not ask
        for ticket in list(self._waiting):
            request = ticket.request
            key = (request.effective_model_name, request.route)
            if key in full or ticket not in self._waiting:
                continue
            group = self.registry.group(*key)
            if not group:
                self.withdraw(ticket)
                ticket.refused(self._unserved(request))
            elif not self._place(ticket, group):
                full.add(key)

    def retry_after(self) -> int:
        return retry_after_s(len(self._waiting) + 1, self.rates.finished_per_s(self._clock()))

    def _group(self, request: RequestMetadata) -> tuple[ExecutionInstance, ...]:
        group = self.registry.group(request.effective_model_name, request.route)
        if group:
            return group
        raise self._unserved(request)

    def _unserved(self, request: RequestMetadata) -> Refusal:
        model, registry = request.effective_model_name, self.registry
        serving = registry.serving(request.route)
        everywhere = [i for i in registry.instances.values() if model in i.models]
        if everywhere and any(request.route in i.routes for i in everywhere):  # known, but draining
            message = f'every instance of model "{model}" is draining'
            return Refusal(Why.NO_HEALTHY_INSTANCE, message, retry_after_s=5)
        unknown = [i.instance_id for i in registry.instances.values() if not i.models]
        if unknown and not everywhere:
            message = f'no instance serves model "{model}" yet; not reached so far: {", ".join(unknown)}'
            return Refusal(Why.NO_HEALTHY_INSTANCE, message, retry_after_s=5)
        if everywhere:
            others = registry.models(serving)
            served = f"; served there: {', '.join(others)}" if others else ""
            message = f'model "{model}" is served, but not on {request.route}{served}'
            return Refusal(Why.UNKNOWN_MODEL if others else Why.NO_ENGINE_FOR_ROUTE, message, "model")
        served = ", ".join(registry.models()) or "none"
        return Refusal(
            Why.UNKNOWN_MODEL, f'no instance serves model "{model}"; served now: {served}', "model"
        )

    def _place(self, ticket: Ticket, group: tuple[ExecutionInstance, ...]) -> bool:
        open_ = _candidates(group, ticket)
        decisions = self.policy.schedule((ticket.request,), open_) if open_ else ()
        for decision in decisions:
            instance = self.registry.instances[decision.target_instance_id]
            instance.active_requests += 1
            self.withdraw(ticket)
            ticket.placed(instance, decision)
            return True
        return False

    def _enqueue(self, ticket: Ticket) -> None:
        limits = self.limits
        if (
            len(self._waiting) >= limits.queue_requests
            or self._waiting_bytes + ticket.size > limits.queue_bytes
        ):
            message = f"{len(self._waiting)} requests wait already; try again later"
            raise Refusal(Why.QUEUE_FULL, message, retry_after_s=self.retry_after())
        self._waiting[ticket] = None
        self._waiting_bytes += ticket.size


def _candidates(group: tuple[ExecutionInstance, ...], ticket: Ticket) -> list[ExecutionInstance]:
    """The healthy ones not tried yet; where none is healthy, any not tried yet.

    A try that may fail serves a caller better than a certain 503, and finds out at once that an engine
    is back: the last instance of a group never falls into a black hole.
    """
    tried = ticket.tried
    ready = [i for i in group if i.state is _READY]
    return [i for i in ready or group if i not in tried] if tried else ready or list(group)
