"""Calls for the texts that lined up: when each may be sent, and how its answer or its failure reaches callers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding import (
    AggregationRules,
    CallLimits,
    CallWindow,
    EmbeddingBatch,
)
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.engines.embeddings.usage import shares
from sage_inference.engines.embeddings.wire import BadAnswerError, Embedded, read_answer
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings.call import EmbeddingCall, State
from sage_inference.gateway.embeddings.caller import EmbeddingCaller
from sage_inference.gateway.embeddings.engine_error import EngineAnswer
from sage_inference.gateway.embeddings.intake import Intake
from sage_inference.gateway.errors import ApiError
from sage_inference.requests.rejection import Rejection
from sage_inference.types import EngineState, ExecutionInstance
from sage_inference.wire.body_coding import UnknownCodingError
from sage_inference.wire.isolation import report_of

if TYPE_CHECKING:
    from sage_inference.gateway.hub import Hub

_READY = EngineState.READY
# After so many answers in a row without vectors no text is taken to be the cause. To find one of 512 takes ten calls.
MAX_UNUSABLE = 16
MAX_OVERLOADS = 6  # answers in a row that mean "overloaded" before a caller gets one


class EmbeddingService(Intake):
    """One gateway's embedding calls."""

    def __init__(self, gateway: Hub, rules: AggregationRules) -> None:
        super().__init__(gateway, rules)
        self.call_type = EmbeddingCall
        self._calls: dict[EmbeddingBatch, EmbeddingCall] = {}
        self._asking: dict[MergeQueue, EmbeddingCall] = {}  # waiting in the scheduler for a slot
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False  # whether calls are asked for at the moment

    def next_tokens(self, merge_queue: MergeQueue) -> int:
        return self.batcher.next_tokens(merge_queue)

    # Sending

    def _pump(self) -> None:
        self._soon = False
        now = self.gateway.clock()
        if self._alone is not None and self._send_alone(self._alone, now):
            return
        self._pumping = True
        try:
            self._ask_for_all(now)
        finally:
            self._pumping = False
        self._wake_at(now)

    def _ask_for_all(self, now: float) -> None:
        """Ask the scheduler for a slot for each call that may be sent, in the order of the queues."""
        asked = True
        while asked:  # again, because beside a bulk call more interactive ones may be sent than before it
            asked = False
            for merge_queue in self.batcher.waiting_queues(now):
                while (
                    merge_queue.waiting
                    and merge_queue not in self._asking
                    and self._may_ask(merge_queue, now)
                ):
                    self._ask(self.call_type(self, merge_queue))
                    asked = True

    def _ask(self, call: EmbeddingCall) -> None:
        merge_queue = call.merge_queue
        # Before it is submitted, because it may be placed at once, and ``fill`` removes it.
        self._asking[merge_queue] = call
        try:
            self.gateway.scheduler.submit(call)
        except Rejection as refusal:
            del self._asking[merge_queue]
            self._cancel(self.batcher.refuse(merge_queue, errors.from_refusal(refusal)))
        except Exception as error:
            call.broke(error)

    def _may_ask(self, merge_queue: MergeQueue, now: float) -> bool:
        group = self._group(merge_queue)
        # Without any instance the scheduler is asked all the same, because it words the refusal.
        ready = [i for i in group if i.state is _READY] or group
        return not ready or any(self._is_open(merge_queue, i, now) for i in ready)

    def closed_to(self, merge_queue: MergeQueue) -> tuple[ExecutionInstance, ...]:
        """The instances where the next call of the queue would only wait."""
        now = self.gateway.clock()
        return tuple(i for i in self._group(merge_queue) if not self._is_open(merge_queue, i, now))

    def _is_open(self, merge_queue: MergeQueue, instance: ExecutionInstance, now: float) -> bool:
        engine = self.gateway.engines.get(instance.instance_id)
        return engine is not None and self.batcher.is_open(merge_queue, engine.window, now)

    def _group(self, merge_queue: MergeQueue) -> tuple[ExecutionInstance, ...]:
        return self.gateway.registry.group(merge_queue.model, merge_queue.route)

    def _wake_at(self, now: float) -> None:
        """Pump again when a configured wait, or a pause after an overload, is over."""
        # One timer at a time: each pump knows all that may come next.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.batcher.waits:
            return
        times = [e.window.closed_until for e in self.gateway.engines.values() if e.window.closed_until > now]
        if (due := self.batcher.next_due(now)) is not None:
            times.append(due)
        if times:
            self._timer = self._loop.call_later(max(0.0, min(times) - now), self._pump)

    def fill(self, call: EmbeddingCall) -> bool:
        """Give a placed call its texts. Returns False if nothing is left to send."""
        # Before anything may fail: a call left here would block its queue for good.
        if self._asking.get(call.merge_queue) is call:
            del self._asking[call.merge_queue]
        if not self._pumping:
            self.pump_soon()  # it waited for its slot, and the next call of its queue has not asked for one yet
        if call.batch is None:
            batch = self.batcher.take(call.merge_queue, call.upstream.window, self.gateway.clock())
        else:
            self._calls.pop(call.batch, None)
            batch = self.batcher.resend(call.batch, call.upstream.window)
            self.pump_soon()  # texts that did not fit wait again
        call.batch = batch
        if batch is not None:
            self._calls[batch] = call
        return batch is not None

    def callers(self, batch: EmbeddingBatch) -> list[EmbeddingCaller]:
        return [job.owner for job in batch.jobs]  # type: ignore[misc]

    def alone(self, batch: EmbeddingBatch) -> EmbeddingCaller | None:
        """The only caller of a batch, if the batch is its request as it came. None if the texts have to be sent anew."""
        job = batch.original_of()
        caller: EmbeddingCaller | None = job.owner if job else None  # type: ignore[assignment]
        return None if caller is None or caller.guarded else caller

    # How calls end

    def left(self, call: EmbeddingCall) -> None:
        """Remove the call from its window, before its outcome is reported."""
        if call.batch is not None:
            call.upstream.window.ended(call.batch)
        self.pump_soon()

    def relay_answer(self, batch: EmbeddingBatch, caller: EmbeddingCaller) -> bool:
        """Whether the answer that has just begun is for ``caller`` alone, which sent the call. Then its batch ends here.

        Otherwise somebody joined since, or the cache wants the vectors, so a call has to read the answer.
        """
        if batch.sole_job is None or self.batcher.cache.max_bytes:
            return False
        window = caller.upstream.window
        # The window learns from the time of the call, so a stall must be noticed first.
        if window.limits.pads:
            self.gateway.wheel.advance()
        window.ended(batch)
        window.answered(batch, caller.attempt.sent_at, self.gateway.clock())
        self.batcher.relayed(batch, batch.sole_job)
        if self.batcher.merge_queues:
            self.pump_soon()
        return True

    def not_sent(self, batch: EmbeddingBatch) -> None:
        """Let texts wait again whose caller could not send them: something broke before it had an attempt."""
        # The caller had no attempt, so which engine it was for is only known by the windows.
        for engine in self.gateway.engines.values():
            if batch in engine.window.batches:
                engine.window.ended(batch)
        self.batcher.put_back(batch)

    def call_for(self, batch: EmbeddingBatch, caller: EmbeddingCaller) -> EmbeddingCall:
        """A call that goes on with the batch and the attempt of ``caller``."""
        call = self._calls[batch] = self.call_type(self, batch.merge_queue, batch)
        call.take_from(caller)
        return call

    def sole_caller(self, call: EmbeddingCall) -> EmbeddingCaller | None:
        """The only caller of a call, which gets the answer as it comes. None if the vectors have to be read.

        From now on its texts are not under way any more: who asks for one of them gets it computed anew.
        """
        batch, alone = call.batch, call.alone
        assert batch is not None
        if alone is None or alone.job is None or self.batcher.cache.max_bytes:
            return None
        if alone is not self.alone(batch):
            return None  # another caller joined
        del self._calls[batch]
        self.batcher.relayed(batch, alone.job)
        return alone

    def answered(self, call: EmbeddingCall, answer: EngineAnswer) -> None:
        batch = call.batch
        assert batch is not None
        # A coding that this process cannot decode has nothing to do with a text.
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
        """Handle an answer without vectors. One text may be to blame, as for a refusal."""
        batch, window = call.batch, call.upstream.window
        assert batch is not None
        # An engine that answers no call with vectors would have every batch halved down to its texts.
        window.unusable += 1
        if may_blame_a_text and window.unusable <= MAX_UNUSABLE and self._halve(call):
            return
        self.failed(call, errors.upstream_unreachable(call.upstream.instance.instance_id, how))

    def _hand_out(self, call: EmbeddingCall, found: Embedded) -> None:
        batch = call.batch
        assert batch is not None
        call.upstream.window.unusable = 0
        # Before callers get their vectors: what they do next must not find this call.
        del self._calls[batch]
        for caller in self.callers(batch):
            caller.note_engine(call.upstream, found.model, call.answered_at)
        _share_time(batch, call.busy_s)
        # Engines report the tokens of a call, callers want their own: divided by the estimates.
        total = batch.tokens if found.tokens is None else found.tokens
        self.batcher.done(batch, found.vectors, shares(total, [text.tokens for text in batch.texts]))

    def rejected(self, call: EmbeddingCall, answer: EngineAnswer) -> None:
        """Handle a refusal: the call was too large, one text is bad, or all are."""
        batch, window = call.batch, call.upstream.window
        assert batch is not None
        # Limits first, because a refusal of a call for its size is about no single text.
        texts = answer.texts_allowed
        if texts and texts < len(batch):
            self._learn(window, window.limits.learn(texts=texts))
            self._again(batch)
        elif answer.too_many_bytes and len(batch) > 1:
            self._learn(window, window.limits.learn(size=batch.size // 2))
            self._again(batch)
        elif not (answer.may_blame_a_text and self._halve(call)):
            self.failed(call, answer)

    def _halve(self, call: EmbeddingCall) -> bool:
        """Send a batch again in two calls. Returns False if all its texts have the same callers."""
        assert call.batch is not None
        halves = self.batcher.halve(call.batch)
        if halves is None:
            return False
        # The halves are other batches, and each may be halved again.
        del self._calls[call.batch]
        for half in halves:
            try:
                self._send_half(half)
            except Exception as error:  # must not stop the other half
                report_of(call.request_id, error)
                self._calls.pop(half, None)
                self._cancel(self.batcher.fail(half, errors.internal(call.request_id)))
        return True

    def _learn(self, window: CallWindow, limits: CallLimits) -> None:
        window.limits = limits
        # Texts are checked against these when they come, and must not be refused only by the engine from now on.
        self._limits.clear()

    def _again(self, batch: EmbeddingBatch) -> None:
        del self._calls[batch]
        self.batcher.put_back(batch)
        self.pump_soon()

    def _send_half(self, half: EmbeddingBatch) -> None:
        call = self.call_type(self, half.merge_queue, half)
        self._calls[half] = call
        try:
            self.gateway.scheduler.submit(call)
        except Rejection as refusal:
            self.failed(call, errors.from_refusal(refusal))
        except Exception as error:
            call.broke(error)
        else:
            self._await_slot(call)

    def retry(self, call: EmbeddingCall) -> None:
        """Raises ``Rejection``."""
        # Counted before the scheduler may refuse it: a retry that found no instance was one.
        self.batcher.counters.retries += 1
        self.gateway.scheduler.retry(call)
        self._await_slot(call)

    def _await_slot(self, call: EmbeddingCall) -> None:
        """Time the wait of a call. Its texts are not in line, so the timers of their callers do not run."""
        if call.state is State.ASKING:
            self.gateway.wheel.set(call, self.gateway.timeouts.queue_s)

    def gave_up(self, call: EmbeddingCall, error: ApiError | EngineAnswer) -> None:
        """No other instance is left. An engine that is only busy gets the call again."""
        batch, window = call.batch, call.upstream.window
        assert batch is not None
        if isinstance(error, EngineAnswer) and error.status == 429 and window.overloads < MAX_OVERLOADS:
            # Back in line, where the calls of other instances may take the texts meanwhile.
            window.overloaded(self.gateway.clock())
            self._again(batch)
        else:
            self.failed(call, error)

    def failed(self, call: EmbeddingCall, error: ApiError | EngineAnswer) -> None:
        """Fail every caller with a text in the call."""
        batch = call.batch
        assert batch is not None
        if call.upstream is not None:
            for caller in self.callers(batch):
                caller.note_engine(call.upstream, None, call.answered_at)
            _share_time(batch, call.busy_s)
        self._calls.pop(batch, None)
        self._cancel(self.batcher.fail(batch, error))

    def broke(self, call: EmbeddingCall, error: ApiError) -> None:
        """Fail those of its callers that have no answer yet."""
        # A call without texts has no callers yet: those that wait for it are in line.
        if call.batch is None:
            if self._asking.get(call.merge_queue) is call:
                self.refused(call, error)
        else:
            self.failed(call, error)

    def refused(self, call: EmbeddingCall, error: ApiError) -> None:
        """Fail the callers of a call for which the scheduler has no instance any more."""
        if call.batch is not None:
            self.failed(call, error)
        else:
            self._asking.pop(call.merge_queue, None)
            self._cancel(self.batcher.refuse(call.merge_queue, error))

    def _cancel(self, batches: list[EmbeddingBatch]) -> None:
        for batch in batches:
            call = self._calls.pop(batch, None)
            if call is not None:
                call.cancel()
                self.batcher.abandon(batch)


def _share_time(batch: EmbeddingBatch, busy_s: float) -> None:
    """Divide the busy time of a call among its callers, by the tokens of the texts that each of them wants."""
    jobs = batch.jobs
    if len(jobs) == 1:
        jobs[0].owner.busy_s += busy_s  # type: ignore[attr-defined]
        return
    tokens = sum(text.tokens for text in batch.texts) or 1
    for text in batch.texts:
        for job, _ in text.wanted:
            job.owner.busy_s += busy_s * text.tokens / tokens / len(text.wanted)  # type: ignore[attr-defined]
