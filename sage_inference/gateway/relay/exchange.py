"""One relayed request: its way to an engine. ``answering`` is the way back, ``phase`` shows the states."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.rejections import asleep
from sage_inference.control_plane.prompt_size import measure
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.receiver import Broken
from sage_inference.engines.too_long import STATUSES as TOO_LONG
from sage_inference.engines.too_long import says_too_long
from sage_inference.gateway import errors
from sage_inference.gateway.classify import classify
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.answer_outcome import ERROR_EVENT
from sage_inference.gateway.relay.answering import JSON
from sage_inference.gateway.relay.attempt import REFUSED_STATUSES, Attempt
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.held import Held
from sage_inference.gateway.relay.phase import FINAL, Phase
from sage_inference.requests.rejection import Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    SchedulingDecision,
)
from sage_inference.wire.body_coding import CodingError, coding_of, decoded
from sage_inference.wire.isolation import report_of
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.hub import Hub

MAX_HELD = 65536  # bytes of an engine's error that are buffered to be judged
MAX_ERROR = 1 << 20  # bytes of such an error, decoded


class CycleEvent:
    """Stands for the event that uvicorn sets on its cycles. An exchange waits for none."""

    def set(self) -> None: ...


# As globals: an enum's members are looked up by a Python call.
_READING, _QUEUED, _SENT = Phase.READING, Phase.QUEUED, Phase.SENT
_DELIVERING = Phase.DELIVERING
_READY = EngineState.READY


class Exchange(Held):
    """Moves one request through its phases.

    An exchange stands where uvicorn keeps a request's cycle. Therefore it has ``response_complete``,
    ``disconnected``, ``message_event`` and ``keep_alive``, which uvicorn reads and writes.
    """

    __slots__ = ("tried_healthy",)

    tried_healthy: bool  # whether any instance that it was placed on was READY then

    message_event = CycleEvent()

    def __init__(self, caller: Caller[Exchange], gateway: Hub, head: RequestHead) -> None:
        # Only attributes that are read before a later step sets them: this runs for every request.
        self.caller = caller
        self.gateway = gateway
        self.head = head
        self.keep_alive = head.keep_alive and not gateway.draining
        self.request_id = head.request_id or gateway.new_id()
        self.phase = _READING
        self.response_complete = self.body_complete = False
        self.size = self.status = self.busy_s = 0
        self.tried = ()
        self.place = None
        self.upstream = self.attempt = None  # type: ignore[assignment]
        self.delivery = None  # type: ignore[assignment]
        self.buffered_error = None
        self.took = None
        self.last = b""
        self.chunked = self.tried_healthy = False
        self.waited_ms = -1.0

    # Events that move it forward

    def begin(self, body: bytes) -> None:
        """The body is complete, and earlier requests of the connection are answered: classify and submit it."""
        gateway = self.gateway
        self.body_complete = True
        self.body = body
        self.size = len(body)
        self.queued_at = gateway.clock()
        try:
            self.request, self.body, self.prompt = classify(
                gateway, self.head, body, self.request_id, self.queued_at
            )
            if self.head.request_id:  # two requests with one id would be mixed up in their engine
                gateway.request_ids.take(self)
            self.submit()
            # ``placed`` runs within ``submit`` if an instance has a slot. Otherwise the request waits.
            if self.phase is _READING:
                self._move(_QUEUED)
                self.waited_ms = 0.0
                self._arm(gateway.timeouts.queue_s)
        except Rejection as refusal:
            self.fail_or_wait(errors.from_refusal(refusal))
        except Exception as error:
            self.broke(error)

    def submit(self) -> None:
        """Ask for an instance. Raises ``Rejection``."""
        self.gateway.scheduler.submit(self, self.measure)

    def measure(self) -> None:
        """Measure the prompt. The scheduler calls this only if there is something to decide."""
        gateway, request = self.gateway, self.request
        # Only the record of decisions has it. Most requests are on their way by now.
        request.connection = self.caller.number
        measure(request, self.prompt, gateway.scheduler.estimates, gateway.shortest)
        self.prompt = b""

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        """An instance has a slot for the request: send it there."""
        gateway = self.gateway
        if self.waited_ms >= 0:  # a request that did not wait pays for no look at the clock
            waited = gateway.clock() - self.queued_at
            self.waited_ms = self.waited_ms if self.begun else waited * 1000
            gateway.stats.waits[self.request.priority].observe(waited)
        if instance.state is _READY:
            self.tried_healthy = True
        try:  # the scheduler may be placing other callers' requests in the same loop
            self.upstream = upstream = gateway.engines[decision.target_instance_id]
            connection = upstream.pool.acquire()
            self.attempt = Attempt(upstream, instance, connection, None, False, gateway.clock())
            if connection is None:
                self._connect()
            else:
                self._send(connection)
        except Exception as error:
            self.broke(error)

    def refused(self, refusal: Rejection) -> None:
        """The request waited for a slot, and no instance can give it one any more."""
        try:
            self.fail_or_wait(errors.from_refusal(refusal))
        except Exception as error:
            self.broke(error)

    def _connect(self) -> None:
        self._move(Phase.CONNECTING)
        self._arm(self.gateway.timeouts.connect_s)
        self.attempt.connect(self)

    def connected(self, connection: EngineConnection) -> None:
        """The connection was made: write the request on it."""
        self.attempt.sent(connection, self.gateway.clock())
        self._send(connection)

    def _send(self, connection: EngineConnection) -> None:
        upstream, gateway = self.upstream, self.gateway
        head, body = self.head, self.body
        # The upstream keeps the beginning that it made for a head: such heads come again and again.
        lines = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
            upstream.starts.get(head) or upstream.start_of(head),
            self.request_id,
            len(body),
        )
        connection.send(self, lines, body)
        self._move(_SENT)
        gateway.wheel.set(self.caller, gateway.timeouts.first_byte_s)

    # Called by the engine's connection

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        upstream = self.upstream
        self.status = status = answer.status
        self.attempt.answer, self.length = answer, length
        if status < 400:
            if upstream.doubted:  # the health of a trusted engine does not change by one more good head
                upstream.answered(status)
            return
        upstream.answered(status)
        if status in REFUSED_STATUSES and self._may_retry():
            self.attempt.abandon()  # the body of a refusal is not worth the wait for its end
            self._retry()
        elif (
            upstream.dialect.looks_at(status, self.route.path)
            or upstream.may_lack_route(status)
            or (status in TOO_LONG and self._no_larger())
            or self.begun
        ) and (length or 0) <= MAX_HELD:
            # A longer body is no error message: it goes to the caller as it comes.
            self.buffered_error = []

    def engine_sends(self, piece: Data, end: bool) -> None:
        if self.phase is _DELIVERING:
            # The last piece is special: usage is read from it, and the books are closed after it.
            if end:
                self._finish(piece)
            else:
                self.delivery.send(piece)
        elif (buffered := self.buffered_error) is not None:
            buffered.append(piece)
            if end:
                self._judge(b"".join(buffered))
            elif sum(map(len, buffered)) > MAX_HELD:
                self._let_go(b"".join(buffered), False)
        elif piece or end:
            # The answer is delivered from its first byte on, not from its head on: vLLM sends the head at once, and the
            # first token much later. Until then the request may still go to another instance.
            if self.length is None and ERROR_EVENT(piece) and self._goes_to_a_living_engine(piece):
                return
            self._let_go(piece, end, self.gateway.clock() - self.attempt.sent_at)

    def engine_failed(self, how: Broken, detail: str) -> None:
        attempt = self.attempt
        # First of all, because it lets go of the connection, whatever follows.
        stale = attempt.disconnected(how, begun=attempt.answer is not None)
        if self.phase is Phase.DELIVERING:
            self._cut(errors.cut_short(attempt.at, detail))
            return
        self.buffered_error = None
        if stale:
            self._connect()
        else:
            self._elsewhere_or(attempt.failed(how, detail))

    def engine_is_silent(self) -> None:
        """The engine hangs or sleeps. Nothing came yet, so a healthy instance may do the work before a time-out."""
        if self.phase is not _SENT:
            return
        attempt = self.attempt
        if self.gateway.scheduler.is_lost(self, attempt.instance) and self._may_retry():
            attempt.abandon()
            self._retry()
        elif refusal := asleep(self.request.model, (attempt.instance,)):
            attempt.abandon()
            self.fail(errors.from_refusal(refusal))

    def not_connected(self, error: OSError) -> None:
        self._end_or_retry(*self.attempt.refusal(error))

    # Retrying

    def _may_retry(self) -> bool:
        # Noted also where no retry is allowed: whoever places this request again must not choose the instance.
        instance = self.attempt.instance
        if instance not in self.tried:
            self.tried += (instance,)
        return len(self.tried) <= self.gateway.retries and self.gateway.scheduler.can_retry(self)

    def _retry(self) -> None:
        self._queue_again()
        self._resubmit(self.gateway.scheduler.retry)

    def _queue_again(self) -> None:
        self._leave_attempt()
        self._move(Phase.QUEUED)

    def _resubmit(self, submit: Callable[..., None], *arguments: object) -> None:
        """Ask the scheduler for another instance, by a method of its. ``placed`` may run within that."""
        try:
            submit(self, *arguments)
        except Rejection as refusal:
            self.fail_or_wait(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self._arm(self.gateway.timeouts.queue_s)

    def _leave_attempt(self) -> None:
        """The attempt has ended, and with it the answer. The connection is closed, or is in the pool again."""
        self.attempt.connection = self.attempt.answer = None

    def _end_or_retry(self, error: ApiError, may_retry: bool) -> None:
        self._elsewhere_or(error) if may_retry else self.fail(error)

    def _elsewhere_or(self, error: ApiError) -> None:
        if self._may_retry():
            self._retry()
            return
        if not self.tried_healthy:  # all instances that were tried had failed before this request
            error = errors.no_healthy_instance(self.request.model, error.message)
        self.fail_or_wait(error, failed=True)

    def _judge(self, body: bytes) -> None:
        """An engine's error is complete. It may mean that another instance should be asked, or need the API's shape."""
        attempt = self.attempt
        upstream, answer = attempt.upstream, attempt.answer
        assert answer is not None
        self.buffered_error = None
        sent = body
        if coding := coding_of(answer):
            try:
                body = decoded(coding, body, MAX_ERROR)
            except CodingError:  # the caller may be able to read it
                self._let_go(sent, True)
                return
        if self.status >= 500 and self._goes_to_a_living_engine(body):
            return
        if upstream.lacks_route(self.status, self.route.path, body):
            self._go_on_elsewhere()
            return
        # Replicas of a model may have contexts of different lengths: only those that are no larger are ruled out.
        if self.status in TOO_LONG and says_too_long(body) and (too_small := self._no_larger()):
            self.tried += too_small
            self._go_on_elsewhere()
            return
        if self.begun:
            self.fail(errors.of_engine(self.status, body))
            return
        wrapped = self._wrapped(body)
        if wrapped is not None:
            attempt.answer, self.length = ResponseHead(self.status, JSON), len(wrapped)
        self._let_go(sent if wrapped is None else wrapped, True)

    def _goes_to_a_living_engine(self, answer: Data) -> bool:
        """Send the request elsewhere if its ``answer`` means that the engine ends. The caller has no byte of one yet.

        Where no other engine is left, it waits for the successor of a managed one.
        """
        upstream, text = self.upstream, bytes(answer)
        drains = upstream.dialect.means_draining(self.status, text)
        if drains:  # vLLM answers so while it shuts down. Other requests need not find that out one by one.
            upstream.draining()
        elif not upstream.dialect.means_death(text):
            return False
        goes_on = self._may_retry()
        if not goes_on and not self.gateway.waiting_room.knows(self.request.model):
            return False
        if not drains:
            upstream.died()
        self.attempt.abandon()
        self._retry() if goes_on else self.wait_for_successor()
        return True

    def _wrapped(self, body: bytes) -> bytes | None:
        """The engine's error in the API's shape. None where the engine's own shape is that."""
        return self.upstream.dialect.wrapped_error(self.status, self.route.path, body)

    def _no_larger(self) -> tuple[ExecutionInstance, ...]:
        """The instances whose context is no larger than this one's. Empty if no healthy instance has a larger one."""
        return self.gateway.scheduler.no_larger(self, self.attempt.instance)

    def _go_on_elsewhere(self) -> None:
        """The instance cannot serve the request and lost no time with it. So this does not count as a retry."""
        self._place_anew(None)

    def _place_anew(self, began_at: ExecutionInstance | None) -> None:
        """Place the request once more. ``began_at``: an instance that may go on with it although it drains."""
        self._queue_again()
        self._resubmit(self.gateway.scheduler.go_on, began_at)

    def broke(self, error: Exception) -> None:
        """An exception of the gateway's own: this request ends with an answer, and no other request ends."""
        report_of(self.caller_id, error, self.request_id)
        if FINAL[self.phase]:
            return
        try:
            self._abandon()
            if self.phase is _DELIVERING:
                self._cut(errors.cut_short(self._at, "gave an answer that could not be relayed"))
            elif self._began:
                self.caller.transport.abort()  # a normal end of the connection could look like the end of an answer
                self._move(Phase.CANCELLED)
            else:
                self.fail(errors.internal(self.caller_id))
        except Exception as another:
            report_of(self.caller_id, another, self.request_id)
            self.phase, self.response_complete = Phase.CANCELLED, True
            self.caller.transport.abort()
        # At the end of this loop iteration: until then the scheduler may not have counted the placement.
        self.gateway.loop_batch.later(self.gateway.scheduler.release, self)

    # Events of the caller and of the clock

    def caller_left(self) -> None:
        """The caller closed its connection."""
        if FINAL[self.phase]:
            return
        try:
            self._abandon()
            self._move(Phase.CANCELLED)
        except Exception as error:
            self.broke(error)

    def timed_out(self) -> None:
        """The current phase took too long."""
        timeouts = self.gateway.timeouts
        if self.phase is Phase.QUEUED:
            self.gateway.scheduler.withdraw(self)
            late = self.gateway.waiting_room.late(self)
            self.fail(late or errors.from_refusal(self.gateway.queue_timeout()))
        elif self.phase is Phase.CONNECTING:
            self._end_or_retry(*self.attempt.connect_timeout(timeouts.connect_s))
        elif self.phase is Phase.SENT:
            # No retry: the engine may be at work on it, and the next engine would take as long.
            self._abandon()
            self.fail(errors.upstream_timeout(self._at, timeouts.first_byte_s))
        elif self.phase is Phase.DELIVERING:
            self._abandon()
            self._cut(errors.cut_short(self._at, f"was silent for {timeouts.stream_idle_s:g} s"))

    def gateway_stops(self) -> None:
        """The gateway stops now. An answer that is under way must not look complete."""
        if self.phase is Phase.DELIVERING:
            self._abandon()
            self._cut(errors.gateway_stopped())

    def _abandon(self) -> None:
        """Leave the queue, or give up the attempt, whichever there is."""
        if self.phase is Phase.QUEUED:
            self.gateway.scheduler.withdraw(self)
            self.gateway.waiting_room.leave(self)
        # An attempt that failed before is still here while the request waits again. It has nothing left to close.
        if self.attempt is not None:
            self.attempt.abandon()
