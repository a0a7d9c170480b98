"""One request in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_inference.control_plane.queue.heap import HeapPlace
from sage_inference.control_plane.slo import ttft_s
from sage_inference.types import ExecutionInstance, SchedulingRequest

if TYPE_CHECKING:
    from sage_inference.control_plane.queue.group_queue import GroupQueue
    from sage_inference.control_plane.submission import Submission

STARVING = 10.0  # times its SLO


class Waiting:
    """The places of a request while it waits: its lane, and its places in the lane's heaps."""

    __slots__ = (
        "age",
        "arrived",
        "band",
        "change",
        "deadline",
        "group_queue",
        "key",
        "overdue",
        "patient",
        "prompt_ms",
        "request",
        "reservation",
        "reserved_for",
        "review",
        "spot",
        "starving_at",
        "submission",
    )

    def __init__(self, submission: Submission, group_queue: GroupQueue) -> None:
        request: SchedulingRequest = submission.request
        self.submission = submission
        self.request = request
        self.group_queue = group_queue
        self.arrived = request.arrived
        self.heed_slo()
        self.patient = True  # may still be held for a warm instance
        self.reserved_for: ExecutionInstance | None = None
        self.overdue = False  # gets only what instances can spare
        self.prompt_ms = 0.0  # what its prompt likely takes
        self.band = 0
        self.key = 0.0
        self.spot: HeapPlace[Waiting] | None = None  # among its tenant's
        self.age: HeapPlace[Waiting] | None = None  # among its band's, by arrival
        self.change: HeapPlace[Waiting] | None = None  # when it falls late
        self.review: HeapPlace[Waiting] | None = None  # when a late one's prompt is predicted anew
        self.reservation: HeapPlace[Waiting] | None = None  # until when it stands aside
        self.deadline: HeapPlace[Waiting] | None = None  # the one its caller gave

    def heed_slo(self) -> None:
        """Its request's SLO is another, or the first."""
        self.starving_at = self.request.arrived + STARVING * ttft_s(self.request)

    def forget_places(self) -> None:
        """Its lane was dissolved."""
        self.spot = self.age = self.change = self.review = self.reservation = self.reserved_for = None
