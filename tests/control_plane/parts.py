"""Requests, instances and managers for tests of the control plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.instances.registry import Registry
from sage_inference.control_plane.policies import policy_named
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.control_plane.setup import Hooks, SchedulerSettings
from sage_inference.requests.rejection import Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    ExecutionInstanceType,
    RequestPriority,
    RequestType,
    SchedulingDecision,
    SchedulingRequest,
)

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Submitted:
    """A request that notes the instance or the rejection that it gets."""

    def __init__(self, request: SchedulingRequest, size: int = 10) -> None:
        self.request = request
        self.size = size
        self.tried: tuple[ExecutionInstance, ...] = ()
        self.place: Any = None
        self.where: ExecutionInstance | None = None
        self.refusal: Rejection | None = None

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        assert decision.request_id == self.request.request_id
        assert decision.target_instance_id == instance.instance_id
        assert self.where is None
        assert self.refusal is None
        self.where = instance

    def refused(self, refusal: Rejection) -> None:
        assert self.where is None
        assert self.refusal is None
        self.refusal = refusal


def request(
    name: object = 0,
    tokens: int = 100,
    *,
    arrived: float = 1000.0,
    model: str = "m",
    route: str = CHAT,
    tenant: str = "",
    priority: RequestPriority = RequestPriority.NORMAL,
    blocks: Sequence[int] = (),
    deadline_ms: float | None = None,
    streams: bool = True,
    session: str = "",
) -> SchedulingRequest:
    return SchedulingRequest(
        str(name),
        RequestType.EMBEDDING if route == EMBED else RequestType.LLM_CHAT,
        model,
        route,
        priority,
        tenant,
        tokens,
        deadline_ms,
        arrived=arrived,
        streams=streams,
        prompt_blocks=blocks,
        session=session,
    )


def instance(
    name: str,
    limit: int = 0,
    *,
    model: str = "m",
    route: str = CHAT,
    gpu: str | None = None,
    window: float = 8192,
) -> ExecutionInstance:
    kind = ExecutionInstanceType.EMBEDDING if route == EMBED else ExecutionInstanceType.GENERAL
    made = ExecutionInstance(
        name,
        "127.0.0.1",
        1,
        instance_type=kind,
        models=(model,),
        routes=frozenset({route}),
        max_concurrent_requests=limit,
        state=EngineState.READY,
        gpu=gpu,
    )
    made.load.window_tokens = window
    return made


def manager(
    *instances: ExecutionInstance,
    policy: str = "hybrid",
    clock: Clock | None = None,
    queue: int = 10_000,
    hooks: Hooks | None = None,
) -> Scheduler:
    registry = Registry()
    for each in instances:
        registry.add(each)
    clock = clock or Clock()
    settings = SchedulerSettings(LimitSettings(queue_requests=queue))
    return Scheduler(registry, policy_named(policy, clock), settings, clock, hooks)


def alarms_of(m: Scheduler) -> list[float]:
    """The alarms that the scheduler asks for from now on."""
    alarms: list[float] = []
    m._hooks.alarm = alarms.append
    return alarms


def configure(m: Scheduler, **changes: Any) -> None:
    m.configure(replace(m.settings, **changes))


def submit(to: Scheduler, what: SchedulingRequest, size: int = 10) -> Submitted:
    submission = Submitted(what, size)
    to.submit(submission)
    return submission
