"""Wires aggregation to the gateway: who may send a call now, and what becomes of its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding import (
    AggregationRules,
    Batcher,
    CallLimits,
    CallWindow,
    EmbeddingBatch,
    EmbeddingJob,
)
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.queue.shares import DISPLACED
from sage_inference.engines.embeddings.usage import shares
from sage_inference.engines.embeddings.wire import BadAnswerError, Embedded, read_answer
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings.call import EmbeddingCall, State
from sage_inference.gateway.embeddings.engine_error import EngineAnswer
from sage_inference.gateway.embeddings.text_limits import TextLimits
from sage_inference.gateway.errors import ApiError
from sage_inference.requests.embedding import are_ids, token_counts
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import EngineState, ExecutionInstance, SchedulingRequest
from sage_inference.wire.body_coding import UnknownCodingError
from sage_inference.wire.isolation import report_of

if TYPE_CHECKING:
    from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
    from sage_inference.gateway.hub import Hub

_READY = EngineState.READY
# Answers in a row without vectors from which no text is taken to be the cause: to find one of 512 takes ten.
MAX_UNUSABLE = 16
MAX_OVERLOADS = 6  # answers in a row that mean "overloaded" before a caller gets one


class EmbeddingService:
    """One gateway's embedding calls."""

    def __init__(self, gateway: Hub, rules: AggregationRules) -> None:
        self.gateway = gateway
        self.aggregator = Batcher(rules, gateway.manager.tenants)
        self._loop = asyncio.get_running_loop()
        self._calls: dict[EmbeddingBatch, EmbeddingCall] = {}
        self._asking: dict[MergeQueue, EmbeddingCall] = {}  # waiting in the manager for a slot
        self._limits: dict[tuple[str, str], TextLimits] = {}
        self._limits_seen = -1  # the registry's version
        self._soon = False
        self._alone: EmbeddingExchange | None = None  # the only request since the last pump, not lined up yet
        self._timer: asyncio.TimerHandle | None = None

    # Callers

    def submit(self, job: EmbeddingJob, caller: EmbeddingExchange) -> None:
        """Take in a caller's texts. Raises ``Rejection`` where too much waits already, or one never fits."""
        counts = token_counts(job.raws)
        self._check_fit(job, counts, caller)
        request, now = caller.request, self.gateway.clock()
        if self._alone is not None:
            self._line_up_alone()
        self.aggregator.enter(job, caller.lane_key, request.model, caller.wire_route, counts, now)
        if not self._goes_undivided(job, caller, now):
            self._line_up(job, caller)

    def _goes_undivided(self, job: EmbeddingJob, caller: EmbeddingExchange, now: float) -> bool:
        """Whether the job needs no place in line: it is sent now, or when all that has arrived by now is read.

        A full call is sent at once. Any other job waits for ``_pump``, so that requests of the same iteration of the
        event loop share a call. If another one comes until then, both line up.
        """
        gateway, aggregator = self.gateway, self.aggregator
        if not job.whole or caller.guarded:
            return False
        group = gateway.registry.group(caller.request.model, caller.wire_route)
        if len(group) != 1:  # the scheduler has to choose an instance
            return False
        window = gateway.engines[group[0].instance_id].room
        if window.is_filled_by(job, aggregator.rules.max_texts):
            return self._send_undivided(job, caller, now, full=True)
        if job.lane is None or job.lane.waiting or (len(aggregator.lanes) > 1 and aggregator.waits):
            return False
        self._alone = caller
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._pump)
        return True

    def _line_up_alone(self) -> None:
        """The job that waited for the pump is not alone any more, or may not be sent."""
        caller, self._alone = self._alone, None
        if caller is None or caller.job is None:
            return
        try:
            self._line_up(caller.job, caller)
        except Rejection as refusal:
            caller.failed(errors.from_refusal(refusal))

    def _line_up(self, job: EmbeddingJob, caller: EmbeddingExchange) -> None:
        """Raises ``Rejection`` where too much waits."""
        request = caller.request
        self.aggregator.line_up(job)
        self.pump_soon()
        if self._too_much_waits():
            self._pump()  # it may be that nothing has been sent since the last turn of the loop
            if job.lane is not None and job.waits and self._too_much_waits():
                self._make_room(job, request)
                return
        if job.lane is not None and job.waits:
            size = job.size + len(job.raws)
            self.aggregator.shares.add(job, request.tenant, request.priority, size)

    def _make_room(self, job: EmbeddingJob, request: SchedulingRequest) -> None:
        """Let others leave for the request, which is one too many. Raises ``Rejection`` where it has to leave itself."""
        limits, shares = self.gateway.limits, self.aggregator.shares
        own_size = job.size + len(job.raws)
        # Texts that waited before may be over a bound that was lowered, or have come back from a call that failed.
        most = max(limits.queue_requests, self.in_line - 1), max(limits.queue_bytes, self._size - own_size)
        over_requests, over_bytes = self.in_line - most[0], self._size - most[1]
        others = shares.displaced(request.tenant, own_size, over_requests, over_bytes) or ()
        for other in others:
            self.leave(other)
        fits = self.in_line <= most[0] and self._size <= most[1]  # not so where others want the same texts
        if fits:
            shares.add(job, request.tenant, request.priority, own_size)
        else:
            self.leave(job)
        wait_s = self.gateway.manager.retry_after()
        error = errors.from_refusal(Rejection(Reason.QUEUE_FULL, DISPLACED, retry_after_s=wait_s))
        for other in others:
            other.owner.failed(error)
        if not fits:
            message = f"{self.in_line} embedding requests wait already; try again later"
            raise Rejection(Reason.QUEUE_FULL, message, retry_after_s=wait_s)

    def _send_undivided(
        self, job: EmbeddingJob, caller: EmbeddingExchange, now: float, *, full: bool
    ) -> bool:
        """Whether the job is on its way: its caller's exchange makes the call, which is the request as it came."""
        gateway, aggregator, request = self.gateway, self.aggregator, caller.request
        group = gateway.registry.group(request.model, caller.wire_route)
        if len(group) != 1:
            return False
        window = gateway.engines[group[0].instance_id].room
        if not aggregator.may_send_undivided(job, window, now, full=full):
            return False
        request.prompt_tokens = job.estimate
        if not gateway.manager.goes_at_once(request, group):
            return False
        caller.relay(aggregator.send_undivided(job, window, now, full=full), group)
        return True

    def leave(self, job: EmbeddingJob) -> None:
        """Its caller is gone: only its own texts leave a forming call."""
        if self._alone is not None and self._alone.job is job:
            self._alone = None
        self._cancel(self.aggregator.leave(job))

    @property
    def in_line(self) -> int:
        return sum(lane.in_line for lane in self.aggregator.lanes.values())

    def _too_much_waits(self) -> bool:
        limits = self.gateway.limits
        return self.in_line > limits.queue_requests or self._size > limits.queue_bytes

    @property
    def _size(self) -> int:
        """Bytes of all texts that wait."""
        return sum(lane.waiting_size for lane in self.aggregator.lanes.values())

    def _check_fit(self, job: EmbeddingJob, counts: list[int], caller: EmbeddingExchange) -> None:
        """Texts that no instance could ever take are refused before one is asked."""
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
        """The limits of the instances of a model, as long as none of them comes, goes, or learns."""
        registry = self.gateway.registry
        if self._limits_seen != registry.version:
            self._limits.clear()
            self._limits_seen = registry.version
        key = (model, route)
        found = self._limits.get(key)
        if found is None:
            group = registry.group(model, route)
            found = TextLimits.of(self.gateway.engines[i.instance_id].room.limits for i in group)
            if group:  # callers could fill memory with invented names
                self._limits[key] = found
        return found

    # Sending

    def pump_soon(self) -> None:
        """Send what can be sent, when all that has arrived by now is read: those may share a call."""
        if not self._soon and self.aggregator.waits:
            self._soon = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._soon = False
        now = self.gateway.clock()
        if self._alone is not None and self._send_alone(self._alone, now):
            return
        for lane in self.aggregator.waiting_lanes(now):
            while lane.waiting and lane not in self._asking and self._may_ask(lane, now):
                self._ask(EmbeddingCall(self, lane))
        self._wake_at(now)

    def _send_alone(self, caller: EmbeddingExchange, now: float) -> bool:
        """Whether the only request since the last pump is on its way. Otherwise it lines up."""
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

    def _ask(self, call: EmbeddingCall) -> None:
        lane = call.lane
        self._asking[lane] = call
        try:
            self.gateway.manager.submit(call)
        except Rejection as refusal:
            del self._asking[lane]
            self._cancel(self.aggregator.refuse(lane, errors.from_refusal(refusal)))
        except Exception as error:
            call.broke(error)

    def _may_ask(self, lane: MergeQueue, now: float) -> bool:
        group = self._group(lane)
        ready = [i for i in group if i.state is _READY] or group
        return not ready or any(self._has_room(lane, i, now) for i in ready)

    def closed_to(self, lane: MergeQueue) -> tuple[ExecutionInstance, ...]:
        """The instances where the lane's next call would only wait."""
        now = self.gateway.clock()
        return tuple(i for i in self._group(lane) if not self._has_room(lane, i, now))

    def _has_room(self, lane: MergeQueue, instance: ExecutionInstance, now: float) -> bool:
        engine = self.gateway.engines.get(instance.instance_id)
        return engine is not None and self.aggregator.has_room(lane, engine.room, now)

    def _group(self, lane: MergeQueue) -> tuple[ExecutionInstance, ...]:
        return self.gateway.registry.group(lane.model, lane.route)

    def _wake_at(self, now: float) -> None:
        """Come back when a wait that was asked for, or a pause after an overload, is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.aggregator.waits:
            return
        times = [e.room.closed_until for e in self.gateway.engines.values() if e.room.closed_until > now]
        if (due := self.aggregator.next_due(now)) is not None:
            times.append(due)
        if times:
            self._timer = self._loop.call_later(max(0.0, min(times) - now), self._pump)

    def fill(self, call: EmbeddingCall) -> bool:
        """The call was placed: give it its texts. False if there is nothing left to send."""
        if self._asking.get(call.lane) is call:
            del self._asking[call.lane]
        if call.batch is None:
            batch = self.aggregator.take(call.lane, call.upstream.room, self.gateway.clock())
        else:
            self._calls.pop(call.batch, None)
            batch = self.aggregator.resend(call.batch, call.upstream.room)
            self.pump_soon()  # what of it did not fit waits again
        call.batch = batch
        if batch is not None:
            self._calls[batch] = call
        return batch is not None

    def callers(self, batch: EmbeddingBatch) -> list[EmbeddingExchange]:
        return [job.owner for job in batch.jobs]  # type: ignore[misc]

    def alone(self, batch: EmbeddingBatch) -> EmbeddingExchange | None:
        """The one caller whose whole request this call is: it is relayed as it came."""
        job = batch.original_of()
        caller: EmbeddingExchange | None = job.owner if job else None  # type: ignore[assignment]
        return None if caller is None or caller.guarded else caller

    # How calls end

    def left(self, call: EmbeddingCall) -> None:
        """It holds no room any more; reported before its outcome."""
        if call.batch is not None:
            call.upstream.room.ended(call.batch)
        self.pump_soon()

    def passed(self, batch: EmbeddingBatch, caller: EmbeddingExchange) -> bool:
        """The first byte of the answer to a call that ``caller`` made itself came: whether it is for nobody else."""
        if batch.whole is None or self.aggregator.cache.max_bytes:
            return False
        room = caller.upstream.room
        if room.limits.pads:  # it learns from the time that the call took
            self.gateway.wheel.advance()
        room.ended(batch)
        room.answered(batch, caller.attempt.sent_at, self.gateway.clock())
        self.aggregator.passed(batch, batch.whole)
        if self.aggregator.lanes:
            self.pump_soon()
        return True

    def not_sent(self, batch: EmbeddingBatch) -> None:
        """A call that its caller would have made itself was not made: its texts wait again."""
        for engine in self.gateway.engines.values():
            if batch in engine.room.batches:
                engine.room.ended(batch)
        self.aggregator.put_back(batch)

    def taken_over(self, batch: EmbeddingBatch, caller: EmbeddingExchange) -> EmbeddingCall:
        """A call that ``caller`` made itself, made like any other from here on."""
        call = self._calls[batch] = EmbeddingCall(self, batch.lane, batch)
        call.take_over(caller)
        return call

    def sole_caller(self, call: EmbeddingCall) -> EmbeddingExchange | None:
        """The one caller that gets the call's answer, as it comes; None where its vectors have to be looked at.

        From now on its texts are not under way any more: who asks for one of them gets it computed anew.
        """
        batch, alone = call.batch, call.alone
        assert batch is not None
        if alone is None or alone.job is None or self.aggregator.cache.max_bytes:
            return None
        if alone is not self.alone(batch):
            return None  # somebody came to share it
        del self._calls[batch]
        self.aggregator.passed(batch, alone.job)
        return alone

    def answered(self, call: EmbeddingCall, answer: EngineAnswer) -> None:
        batch = call.batch
        assert batch is not None
        if answer.unread is not None:
            known = not isinstance(answer.unread, UnknownCodingError)
            self.unusable(call, str(answer.unread), may_blame_a_text=known)
            return
        try:
            found = read_answer(call.route, answer.body, answer.head.headers, len(batch))
        except BadAnswerError as error:
            self.unusable(call, str(error))
            return
        self._hand_out(call, found)

    def unusable(self, call: EmbeddingCall, how: str, *, may_blame_a_text: bool = True) -> None:
        """The engine's answer has no vectors in it: one text may be to blame, as for a refusal."""
        batch, room = call.batch, call.upstream.room
        assert batch is not None
        room.unusable += 1
        if may_blame_a_text and room.unusable <= MAX_UNUSABLE and self._halve(call):
            return
        self.failed(call, errors.upstream_unreachable(call.upstream.instance.instance_id, how))

    def _hand_out(self, call: EmbeddingCall, found: Embedded) -> None:
        batch = call.batch
        assert batch is not None
        call.upstream.room.unusable = 0
        del self._calls[batch]
        for caller in self.callers(batch):
            caller.served_by(call.upstream, found.model, call.answered_at)
        total = batch.tokens if found.tokens is None else found.tokens
        self.aggregator.done(batch, found.vectors, shares(total, [text.tokens for text in batch.texts]))

    def rejected(self, call: EmbeddingCall, answer: EngineAnswer) -> None:
        """The engine did not like it: too much in one call, a bad text, or all of it."""
        batch, room = call.batch, call.upstream.room
        assert batch is not None
        texts = answer.texts_allowed
        if texts and texts < len(batch):
            self._learn(room, room.limits.learn(texts=texts))
            self._again(batch)
        elif answer.too_many_bytes and len(batch) > 1:
            self._learn(room, room.limits.learn(size=batch.size // 2))
            self._again(batch)
        elif not (answer.may_blame_a_text and self._halve(call)):
            self.failed(call, answer)

    def _halve(self, call: EmbeddingCall) -> bool:
        """Send it again in two calls; False if all of it is the same callers'."""
        assert call.batch is not None
        halves = self.aggregator.halve(call.batch)
        if halves is None:
            return False
        del self._calls[call.batch]
        for half in halves:
            try:
                self._send_half(half)
            except Exception as error:  # the other half has no part in it
                report_of(call.request_id, error)
                self._calls.pop(half, None)
                self._cancel(self.aggregator.fail(half, errors.internal(call.request_id)))
        return True

    def _learn(self, room: CallWindow, limits: CallLimits) -> None:
        room.limits = limits
        self._limits.clear()

    def _again(self, batch: EmbeddingBatch) -> None:
        del self._calls[batch]
        self.aggregator.put_back(batch)
        self.pump_soon()

    def _send_half(self, half: EmbeddingBatch) -> None:
        call = EmbeddingCall(self, half.lane, half)
        self._calls[half] = call
        try:
            self.gateway.manager.submit(call)
        except Rejection as refusal:
            self.failed(call, errors.from_refusal(refusal))
        except Exception as error:
            call.broke(error)
        else:
            self._await_slot(call)

    def retry(self, call: EmbeddingCall) -> None:
        """Raises ``Rejection``."""
        self.aggregator.counters.retries += 1
        self.gateway.manager.retry(call)
        self._await_slot(call)

    def _await_slot(self, call: EmbeddingCall) -> None:
        """Its texts no longer stand in line, so that their callers' own clocks don't watch this wait."""
        if call.state is State.ASKING:
            self.gateway.wheel.set(call, self.gateway.timeouts.queue_s)

    def queue_timeout(self) -> ApiError:
        seconds = self.gateway.timeouts.queue_s
        message = f"no instance had a free slot within {seconds:g} s (timeouts.queue_s)"
        wait = self.gateway.manager.retry_after()
        return errors.from_refusal(Rejection(Reason.QUEUE_TIMEOUT, message, retry_after_s=wait))

    def gave_up(self, call: EmbeddingCall, error: ApiError | EngineAnswer) -> None:
        """No other instance is left. An engine that is merely busy is asked again, for a while."""
        batch, room = call.batch, call.upstream.room
        assert batch is not None
        if isinstance(error, EngineAnswer) and error.status == 429 and room.overloads < MAX_OVERLOADS:
            room.overloaded(self.gateway.clock())
            self._again(batch)
        else:
            self.failed(call, error)

    def failed(self, call: EmbeddingCall, error: ApiError | EngineAnswer) -> None:
        """Every caller with a text in the call gets the error."""
        batch = call.batch
        assert batch is not None
        if call.upstream is not None:
            for caller in self.callers(batch):
                caller.served_by(call.upstream, None, call.answered_at)
        self._calls.pop(batch, None)
        self._cancel(self.aggregator.fail(batch, error))

    def broke(self, call: EmbeddingCall, error: ApiError) -> None:
        """Those of its callers that have no answer yet get this one."""
        if call.batch is None:
            if self._asking.get(call.lane) is call:
                self.refused(call, error)
        else:
            self.failed(call, error)

    def refused(self, call: EmbeddingCall, error: ApiError) -> None:
        """The manager has no instance for it any more."""
        if call.batch is not None:
            self.failed(call, error)
        else:
            self._asking.pop(call.lane, None)
            self._cancel(self.aggregator.refuse(call.lane, error))

    def _cancel(self, batches: list[EmbeddingBatch]) -> None:
        for batch in batches:
            call = self._calls.pop(batch, None)
            if call is not None:
                call.cancel()
                self.aggregator.abandon(batch)
