"""A submitted request, as the scheduler sees it, and its place while it waits."""

from __future__ import annotations

from typing import Protocol

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.queue.heap import HeapPlace
from sage_inference.requests.rejection import Rejection
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest

Group = tuple[ExecutionInstance, ...]


class Submission(Protocol):
    """The interface that the scheduler calls back. Exchanges and embedding calls of the gateway are submissions.

    ``place`` belongs to the scheduler: the request waits, is placed on an instance, or neither.
    """

    request: SchedulingRequest
    size: int  # bytes that the request keeps in memory while it waits
    place: Waiting | Placement | None

    @property
    def tried(self) -> tuple[ExecutionInstance, ...]:
        """Instances where the request failed before, or must not go."""

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None: ...

    def refused(self, refusal: Rejection) -> None: ...


class Waiting:
    """A request that waits: the queue that has it, and its places in the heaps of that queue."""

    __slots__ = (
        "arrived",
        "band",
        "change",
        "deadline",
        "due_at",
        "group",
        "key",
        "order",
        "overdue",
        "patient",
        "prompt_ms",
        "request",
        "reservation",
        "reserved_for",
        "review",
        "senior",
        "seniority",
        "spot",
        "stands_back",
        "submission",
    )

    def __init__(self, submission: Submission, group: Group, order: str) -> None:
        request: SchedulingRequest = submission.request
        self.submission = submission
        self.request = request
        self.group = group  # the instances that may take the request
        self.order = order  # the name of the order in which it waits for them
        self.arrived = request.arrived
        # Set when it enters a queue, see ``queue.ageing`` and ``queue.orders``.
        self.due_at = self.seniority = request.arrived
        self.patient = True  # may still be reserved for the instance that has its prompt cached
        self.reserved_for: ExecutionInstance | None = None
        self.overdue = False  # gets only what instances can spare
        self.stands_back = (
            False  # in time, but ordered as if overdue, because its prompt would slow streams down
        )
        self.prompt_ms = 0.0  # the predicted time of its prompt
        self.band = 0
        self.key = 0.0
        self.spot: HeapPlace[Waiting] | None = None  # among the requests of its tenant
        self.senior: HeapPlace[Waiting] | None = None  # by seniority, among the requests of its band
        self.change: HeapPlace[Waiting] | None = None  # the moment when it becomes overdue
        self.review: HeapPlace[Waiting] | None = None  # the next prediction of an overdue prompt
        self.reservation: HeapPlace[Waiting] | None = None  # the end of its reservation
        self.deadline: HeapPlace[Waiting] | None = None  # the deadline that its caller gave

    def move_to(self, group: Group, order: str) -> None:
        """The queue that had it was dissolved: every place in its heaps is void, but for the caller's deadline."""
        self.group, self.order = group, order
        self.spot = self.senior = self.change = self.review = self.reservation = self.reserved_for = None
