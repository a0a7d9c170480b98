"""Accept the texts of callers: send them at once, queue them for a shared call, or refuse them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding import AggregationRules, Batcher, EmbeddingBatch, EmbeddingJob
from sage_inference.control_plane.queue.shares import DISPLACED
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings.caller import EmbeddingCaller
from sage_inference.gateway.embeddings.text_limits import TextLimits
from sage_inference.requests.embedding import are_ids, token_counts
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import SchedulingRequest

if TYPE_CHECKING:
    from sage_inference.gateway.hub import Hub


class Intake:
    """The part of the service that accepts jobs. ``EmbeddingService`` makes the calls for those that line up."""

    def __init__(self, gateway: Hub, rules: AggregationRules) -> None:
        self.gateway = gateway
        self.batcher = Batcher(rules, gateway.scheduler.tenants)
        self._loop = asyncio.get_running_loop()
        self._limits: dict[tuple[str, str], TextLimits] = {}
        self._limits_seen = -1  # the registry's version
        self._soon = False
        self._alone: EmbeddingCaller | None = None  # the only request since the last pump, not lined up yet

    # Completed by the service

    def _pump(self) -> None:
        """Send what can be sent."""
        raise NotImplementedError

    def _cancel(self, batches: list[EmbeddingBatch]) -> None:
        """Break off the calls of these batches, which nobody wants any more."""
        raise NotImplementedError

    # Callers

    def submit(self, job: EmbeddingJob, caller: EmbeddingCaller) -> None:
        """Take in a caller's texts. Raises ``Rejection`` where too much waits already, or one never fits."""
        counts = token_counts(job.raws)
        self._check_fit(job, counts, caller)
        request, now = caller.request, self.gateway.clock()
        if self._alone is not None:
            self._line_up_alone()
        self.batcher.enter(job, caller.merge_key, request.model, caller.wire_route, counts, now)
        if not self._goes_undivided(job, caller, now):
            self._line_up(job, caller)

    def _goes_undivided(self, job: EmbeddingJob, caller: EmbeddingCaller, now: float) -> bool:
        """Whether the job needs no place in line. It is sent now, or by the next pump.

        A full call is sent at once. Any other job waits for ``_pump``, so that requests of the same iteration of the
        event loop share a call. If another one comes until then, both line up.
        """
        gateway, batcher = self.gateway, self.batcher
        if not job.undivided or caller.guarded:
            return False
        group = gateway.registry.group(caller.request.model, caller.wire_route)
        if len(group) != 1:  # the scheduler has to choose an instance
            return False
        window = gateway.engines[group[0].instance_id].window
        if window.is_filled_by(job, batcher.rules.max_texts):
            return self._send_undivided(job, caller, now, full=True)
        if (
            job.merge_queue is None
            or job.merge_queue.waiting
            or (len(batcher.merge_queues) > 1 and batcher.waits)
        ):
            return False
        # Not sent at once: the first text of a burst would go alone, and the rest would wait for its answer.
        self._alone = caller
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._pump)
        return True

    def _line_up_alone(self) -> None:
        """Line up the job that waited for the pump, because it is not alone any more or may not be sent."""
        caller, self._alone = self._alone, None
        if caller is None or caller.job is None:
            return
        try:
            self._line_up(caller.job, caller)
        except Rejection as refusal:
            caller.failed(errors.from_refusal(refusal))

    def _line_up(self, job: EmbeddingJob, caller: EmbeddingCaller) -> None:
        """Raises ``Rejection`` where too much waits."""
        request = caller.request
        self.batcher.line_up(job)
        self.pump_soon()
        if self._too_much_waits():
            self._pump()  # nothing may have been sent since the last iteration of the loop
            if job.merge_queue is not None and job.waits and self._too_much_waits():
                self._make_room(job, request)
                return
        if job.merge_queue is not None and job.waits:
            size = job.size + len(job.raws)
            self.batcher.shares.add(job, request.tenant, request.priority, size)

    def _make_room(self, job: EmbeddingJob, request: SchedulingRequest) -> None:
        """Displace other requests for one that is too many. Raises ``Rejection`` if the new one has to leave itself."""
        limits, shares = self.gateway.limits, self.batcher.shares
        own_size = job.size + len(job.raws)
        # Texts that waited before may be over a bound that was lowered, or have come back from a call that failed.
        most = max(limits.queue_requests, self.in_line - 1), max(limits.queue_bytes, self._size - own_size)
        over_requests, over_bytes = self.in_line - most[0], self._size - most[1]
        others = shares.displaced(request.tenant, own_size, over_requests, over_bytes) or ()
        for other in others:
            self.leave(other)
        fits = self.in_line <= most[0] and self._size <= most[1]  # False if others want the same texts
        if fits:
            shares.add(job, request.tenant, request.priority, own_size)
        else:
            self.leave(job)
        wait_s = self.gateway.scheduler.retry_after()
        error = errors.from_refusal(Rejection(Reason.QUEUE_FULL, DISPLACED, retry_after_s=wait_s))
        for other in others:
            other.owner.failed(error)
        if not fits:
            message = f"{self.in_line} embedding requests wait already; try again later"
            raise Rejection(Reason.QUEUE_FULL, message, retry_after_s=wait_s)

    def _send_undivided(self, job: EmbeddingJob, caller: EmbeddingCaller, now: float, *, full: bool) -> bool:
        """Let the caller's exchange send the job: the request as it came is the call. Returns whether it was sent."""
        gateway, batcher, request = self.gateway, self.batcher, caller.request
        group = gateway.registry.group(request.model, caller.wire_route)
        if len(group) != 1:
            return False
        window = gateway.engines[group[0].instance_id].window
        if not batcher.may_send_undivided(job, window, now, full=full):
            return False
        request.prompt_tokens = job.estimate
        if not gateway.scheduler.goes_at_once(request, group):
            return False
        caller.send_call(batcher.send_undivided(job, window, now, full=full), group)
        return True

    def leave(self, job: EmbeddingJob) -> None:
        """Remove a job whose caller left. Texts that others want stay."""
        if self._alone is not None and self._alone.job is job:
            self._alone = None
        self._cancel(self.batcher.leave(job))

    @property
    def in_line(self) -> int:
        return sum(merge_queue.in_line for merge_queue in self.batcher.merge_queues.values())

    def _too_much_waits(self) -> bool:
        limits = self.gateway.limits
        return self.in_line > limits.queue_requests or self._size > limits.queue_bytes

    @property
    def _size(self) -> int:
        """Bytes of all texts that wait."""
        return sum(merge_queue.waiting_size for merge_queue in self.batcher.merge_queues.values())

    def _check_fit(self, job: EmbeddingJob, counts: list[int], caller: EmbeddingCaller) -> None:
        """Refuse texts that no instance could ever take, before one is asked. Raises ``Rejection``."""
        limits = self.text_limits(caller.request.model, caller.wire_route)
        if limits.size is not None and (size := max(map(len, job.raws))) > limits.size:
            message = f"a text of {size} bytes fits no call: the engine takes {limits.size} bytes"
            raise Rejection(Reason.BAD_REQUEST, message, caller.input_name)
        if limits.tokens is None or not are_ids(job.raws):
            return
        for place, tokens in enumerate(counts):
            if tokens > limits.tokens:
                message = f"text {place} has {tokens} tokens; the model takes {limits.tokens}"
                raise Rejection(Reason.BAD_REQUEST, message, caller.input_name)

    def text_limits(self, model: str, route: str) -> TextLimits:
        """The limits of the instances of a model, cached until an instance comes, goes, or shows another limit."""
        registry = self.gateway.registry
        if self._limits_seen != registry.version:
            self._limits.clear()
            self._limits_seen = registry.version
        key = (model, route)
        found = self._limits.get(key)
        if found is None:
            group = registry.group(model, route)
            found = TextLimits.of(self.gateway.engines[i.instance_id].window.limits for i in group)
            if group:  # callers could fill memory with invented names
                self._limits[key] = found
        return found

    def _send_alone(self, caller: EmbeddingCaller, now: float) -> bool:
        """Send the only request since the last pump, and return whether that was possible. Otherwise line it up."""
        job = caller.job
        try:
            if job is not None and self._send_undivided(job, caller, now, full=False):
                self._alone = None
                return True
            self._line_up_alone()
        except Exception as error:
            self._alone = None
            caller.broke(error)
        return False

    def pump_soon(self) -> None:
        """Pump when all sockets that are readable now were read, because their requests may share a call."""
        if not self._soon and self.batcher.waits:
            self._soon = True
            self._loop.call_soon(self._pump)
