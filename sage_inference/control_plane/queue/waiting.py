"""All requests that wait: bounded in number and bytes, each in the lane of its group."""

from __future__ import annotations

from collections.abc import Callable

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.entry import Waiting
from sage_inference.control_plane.queue.group_queue import GroupQueue
from sage_inference.control_plane.queue.heap import Heap
from sage_inference.control_plane.queue.orders import ORDERS, Predict
from sage_inference.control_plane.queue.shares import Shares
from sage_inference.control_plane.submission import Submission
from sage_inference.types import ExecutionInstance

Group = tuple[ExecutionInstance, ...]


class Queue:
    """Lanes by group and order. ``deadlines`` are those that callers gave."""

    def __init__(self, counters: TenantCounters, predict: Predict | None = None) -> None:
        self.requests = 0
        self.bytes = 0
        self.group_queues: dict[tuple[Group, str], GroupQueue] = {}
        self.deadlines: Heap[Waiting] = Heap()
        self._counters = counters
        self._predict = predict
        self._shares: Shares[Waiting] = Shares(counters)

    def has_room(self, submission: Submission, limits: LimitSettings) -> bool:
        return self.requests < limits.queue_requests and self.bytes + submission.size <= limits.queue_bytes

    def make_room(self, submission: Submission, limits: LimitSettings) -> list[Waiting] | None:
        """Take out those who have to leave for ``submission``; None where nobody has to: there is no room for it."""
        over_requests = self.requests + 1 - limits.queue_requests
        over_bytes = self.bytes + submission.size - limits.queue_bytes
        leave = self._shares.displaced(submission.request.tenant, submission.size, over_requests, over_bytes)
        for waiting in leave or ():
            self.remove(waiting)
        return leave

    def group_queue(self, group: Group, order: str) -> GroupQueue | None:
        """Where requests of this group already wait, if any do."""
        return self.group_queues.get((group, order))

    def add(
        self, submission: Submission, group: Group, order: str, predicted_ms: float, now: float
    ) -> Waiting:
        """Let it wait; ``submission.load`` has its place until it leaves."""
        waiting = submission.load = Waiting(submission, self._group_queue(group, order))
        self.requests += 1
        self.bytes += submission.size
        deadline_ms = submission.request.slo_deadline_ms
        if deadline_ms is not None:
            waiting.deadline = self.deadlines.push(submission.request.arrived + deadline_ms / 1000, waiting)
        waiting.group_queue.add(waiting, predicted_ms, now)
        if (
            submission.size
        ):  # else it holds nothing here: an embedding call's texts are counted where they wait
            self._shares.add(waiting, submission.request.tenant, submission.request.priority, submission.size)
        return waiting

    def remove(self, waiting: Waiting) -> None:
        waiting.submission.load = None
        self._shares.remove(waiting)
        self.requests -= 1
        self.bytes -= waiting.submission.size
        if waiting.deadline is not None:
            self.deadlines.leave(waiting.deadline)
        group_queue = waiting.group_queue
        group_queue.remove(waiting)
        if not group_queue:
            del self.group_queues[group_queue.group, group_queue.order.name]

    def regroup(self, place: Callable[[Waiting], tuple[Group, str, float]], now: float) -> list[Waiting]:
        """Sort everyone into lanes anew, by arrival; returns those whose group is empty, still to be removed.

        ``place`` returns a request's group, order, and the time of its prompt in ms.
        """
        everyone = [
            waiting for group_queue in self.group_queues.values() for waiting in group_queue.everyone()
        ]
        self.group_queues = {}
        stranded = []
        for waiting in sorted(everyone, key=lambda each: each.arrived):
            group, order, predicted_ms = place(waiting)
            if not group:
                stranded.append(waiting)
            waiting.forget_places()
            waiting.group_queue = self._group_queue(group, order)
            waiting.group_queue.add(waiting, predicted_ms, now)
        return stranded

    def _group_queue(self, group: Group, order: str) -> GroupQueue:
        group_queue = self.group_queues.get((group, order))
        if group_queue is None:
            group_queue = self.group_queues[group, order] = GroupQueue(
                group, ORDERS[order], self._counters, self._predict
            )
        return group_queue
