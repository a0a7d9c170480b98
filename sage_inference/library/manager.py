"""``ControlPlaneManager``: submit requests, await their results, change the policy while they run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from sage_inference.client.results import InferenceResult
from sage_inference.config.backend import Backend
from sage_inference.control_plane.policies import POLICIES
from sage_inference.gateway.api.status import status_document
from sage_inference.gateway.relay.phase import Phase
from sage_inference.library.coordinator import ExecutionCoordinator
from sage_inference.library.policies import SchedulingPolicy
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import ExecutionInstance, PerformanceMetrics, RequestStatus

_REMEMBERED = 1000  # ended requests that get_request_status knows


class ControlPlaneManager:
    """A gateway's scheduling on one event loop: ``async with ControlPlaneManager("hybrid") as manager``.

    ``scheduling_policy`` is the name of a policy or a policy object.
    """

    def __init__(self, scheduling_policy: SchedulingPolicy | str = "hybrid") -> None:
        """Raises ``ValueError`` for an unknown policy."""
        self._policy = scheduling_policy
        self.coordinator = ExecutionCoordinator(_settings(scheduling_policy))
        self._tasks: dict[str, asyncio.Task[InferenceResult]] = {}
        self._ended: OrderedDict[str, RequestStatus] = OrderedDict()

    async def start(self) -> None:
        """Start. Returns as ``ExecutionCoordinator.start``."""
        await self.coordinator.start()
        self.update_policy(self._policy)

    async def stop(self) -> None:
        """Cancel all running requests."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.coordinator.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def register_instance(self, instance: ExecutionInstance | Backend) -> str:
        """See ``ExecutionCoordinator``."""
        return self.coordinator.register_instance(instance)

    def unregister_instance(self, instance_id: str) -> bool:
        """See ``ExecutionCoordinator``."""
        return self.coordinator.unregister_instance(instance_id)

    def submit_request(
        self, request: RequestMetadata, body: Mapping[str, Any] | None = None
    ) -> asyncio.Task[InferenceResult]:
        """Start a request. Await the return value for its result. Raises ``ValueError`` if its id runs already."""
        name = request.request_id
        if name in self._tasks:
            raise ValueError(f"request {name} runs already; give each request an id of its own")
        task = asyncio.get_running_loop().create_task(self.coordinator.execute(request, body))
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._end(name, done))
        return task

    def get_request_status(self, request_id: str) -> RequestStatus | None:
        """The state of a request. None if its id is unknown, or a thousand requests have ended since."""
        if request_id not in self._tasks:
            return self._ended.get(request_id)
        running = self.coordinator.running_exchange(request_id)
        if running is None:
            return RequestStatus.PENDING
        return RequestStatus.QUEUED if running.phase is Phase.QUEUED else RequestStatus.RUNNING

    def cancel_request(self, request_id: str) -> bool:
        """Cancel a request, also in the engine. False if it does not run."""
        task = self._tasks.get(request_id)
        return task is not None and task.cancel()

    def update_policy(self, policy: SchedulingPolicy | str) -> None:
        """Use another policy from now on, also for requests that wait. Raises ``ValueError`` for an unknown one."""
        gateway = self.coordinator.gateway
        scheduling = replace(gateway.settings.scheduling, **_settings(policy))
        gateway.configure(replace(gateway.settings, scheduling=scheduling))
        if isinstance(policy, SchedulingPolicy):
            gateway.scheduler.use(policy.placing)
        self._policy = policy

    def get_status(self) -> dict[str, Any]:
        """The document of ``sage inference status --json``."""
        return status_document(self.coordinator.gateway)

    def get_metrics(self) -> PerformanceMetrics:
        """See ``ExecutionCoordinator``."""
        return self.coordinator.get_metrics()

    def _end(self, name: str, task: asyncio.Task[InferenceResult]) -> None:
        self._tasks.pop(name, None)
        if task.cancelled():
            status = RequestStatus.CANCELLED
        else:
            status = RequestStatus.FAILED if task.exception() is not None else RequestStatus.COMPLETED
        self._ended[name] = status
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)


def _settings(policy: SchedulingPolicy | str) -> dict[str, Any]:
    if isinstance(policy, SchedulingPolicy):
        return policy.settings()
    if policy not in POLICIES:
        raise ValueError(f"scheduling policy {str(policy)!r} is not one of {', '.join(POLICIES)}")
    return {"policy": str(policy)}
