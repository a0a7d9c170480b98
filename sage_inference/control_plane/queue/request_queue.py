"""All requests that wait: bounded in number and bytes, each in the queue of its group."""

from __future__ import annotations

from collections.abc import Callable

from sage_inference.config.settings import LimitSettings
from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.group_queue import GroupQueue
from sage_inference.control_plane.queue.heap import Heap
from sage_inference.control_plane.queue.orders import ORDERS, Predict
from sage_inference.control_plane.queue.shares import Shares
from sage_inference.control_plane.submission import Group, Submission, Waiting


class RequestQueue:
    """Group queues by group and order. ``deadlines`` are those that callers gave."""

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
        """Remove the requests that ``submission`` displaces; None if it displaces none, and so has no room itself."""
        over_requests = self.requests + 1 - limits.queue_requests
        over_bytes = self.bytes + submission.size - limits.queue_bytes
        leave = self._shares.displaced(submission.request.tenant, submission.size, over_requests, over_bytes)
        for waiting in leave or ():
            self.remove(waiting)
        return leave

    def group_queue(self, group: Group, order: str) -> GroupQueue | None:
        """The queue of this group and order; None while it is empty."""
        return self.group_queues.get((group, order))

    def of(self, waiting: Waiting) -> GroupQueue:
        """The queue that has a request which waits."""
        return self.group_queues[waiting.group, waiting.order]

    def add(
        self, submission: Submission, group: Group, order: str, predicted_ms: float, now: float
    ) -> Waiting:
        """Queue a submission. ``submission.place`` is its place in the queue until it leaves."""
        waiting = submission.place = Waiting(submission, group, order)
        self.requests += 1
        self.bytes += submission.size
        deadline_ms = submission.request.slo_deadline_ms
        if deadline_ms is not None:
            waiting.deadline = self.deadlines.push(submission.request.arrived + deadline_ms / 1000, waiting)
        self._enter(waiting, predicted_ms, now)
        # An embedding call keeps no bytes here: its texts are counted where they wait for the call.
        if submission.size:
            self._shares.add(waiting, submission.request.tenant, submission.request.priority, submission.size)
        return waiting

    def remove(self, waiting: Waiting) -> None:
        waiting.submission.place = None
        self._shares.remove(waiting)
        self.requests -= 1
        self.bytes -= waiting.submission.size
        if waiting.deadline is not None:
            self.deadlines.leave(waiting.deadline)
        group_queue = self.of(waiting)
        group_queue.remove(waiting)
        if not group_queue:
            del self.group_queues[waiting.group, waiting.order]

    def regroup(self, place: Callable[[Waiting], tuple[Group, str, float]], now: float) -> list[Waiting]:
        """Sort all requests into group queues again, by arrival.

        ``place`` returns a request's group, its order, and the predicted time of its prompt in ms. Requests whose group
        is empty are returned, and the caller has to remove them.
        """
        everyone = self.everyone()
        self.group_queues = {}
        stranded = []
        for waiting in sorted(everyone, key=lambda each: each.arrived):
            group, order, predicted_ms = place(waiting)
            if not group:
                stranded.append(waiting)
            waiting.move_to(group, order)
            self._enter(waiting, predicted_ms, now)
        return stranded

    def everyone(self) -> list[Waiting]:
        """All requests that wait, by group queue."""
        return [waiting for queue in self.group_queues.values() for waiting in queue.everyone()]

    def _enter(self, waiting: Waiting, predicted_ms: float, now: float) -> None:
        key = waiting.group, waiting.order
        group_queue = self.group_queues.get(key)
        if group_queue is None:
            order = ORDERS[waiting.order]
            group_queue = self.group_queues[key] = GroupQueue(
                waiting.group, order, self._counters, self._predict
            )
        group_queue.add(waiting, predicted_ms, now)
