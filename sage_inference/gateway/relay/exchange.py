"""One relayed request: from the caller to an engine, and the answer back. See ``phase`` for the states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.rejections import asleep
from sage_inference.control_plane.prompt_size import measure
from sage_inference.engines.connection import Broken, EngineConnection
from sage_inference.engines.too_long import STATUSES as TOO_LONG
from sage_inference.engines.too_long import says_too_long
from sage_inference.gateway import errors
from sage_inference.gateway.classify import classify
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.answering import JSON, Answering
from sage_inference.gateway.relay.attempt import REFUSED_STATUSES, Attempt
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.ending import PLAIN_END
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.phase import FINAL, Phase
from sage_inference.requests.rejection import Reason, Rejection
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    RequestType,
    SchedulingDecision,
)
from sage_inference.wire.body_coding import CodingError, coding_of, decoded
from sage_inference.wire.isolation import report_of
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.hub import Hub

MAX_HELD = 65536  # bytes of an engine's error that are held back to be looked at
MAX_ERROR = 1 << 20  # bytes of it, decoded


class CycleEvent:
    """uvicorn sets an event on its cycles; an exchange needs none."""

    def set(self) -> None: ...


# As globals: an enum's members are looked up by a Python call.
_READING, _QUEUED, _SENT = Phase.READING, Phase.QUEUED, Phase.SENT
_DELIVERING, _DONE = Phase.DELIVERING, Phase.DONE
_READY = EngineState.READY
_RESPONSES = RequestType.RESPONSES
_PLAIN_END = -PLAIN_END


class Exchange(Answering):
    """Moves one request through its phases.

    It stands where uvicorn keeps a request's cycle, hence ``response_complete``, ``disconnected``,
    ``message_event`` and ``keep_alive``, which uvicorn reads and writes.
    """

    # Slots: a class with this many attributes would lose Python's own fast access to them.
    __slots__ = ("tried_healthy",)

    tried_healthy: bool  # whether an instance that it was placed on was thought to be well

    message_event = CycleEvent()

    def __init__(self, caller: Caller[Exchange], gateway: Hub, head: RequestHead) -> None:
        # Only what is read before it is set in the course of things: this runs for every request.
        self.caller = caller
        self.gateway = gateway
        self.head = head
        self.keep_alive = head.keep_alive and not gateway.draining
        self.request_id = head.request_id or gateway.new_id()
        self.phase = _READING
        self.response_complete = self.body_complete = False
        self.size = self.status = 0
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
        """The whole request is here, and it is its turn: classify and submit it."""
        gateway = self.gateway
        self.body_complete = True
        self.body = body
        self.size = len(body)
        self.queued_at = gateway.clock()
        try:
            self.request, self.body, self.prompt = classify(
                gateway, self.head, body, self.request_id, self.queued_at
            )
            if self.head.request_id:
                gateway.request_ids.take(self)
            self.submit()
            if self.phase is _READING:
                self._move(_QUEUED)
                self.waited_ms = 0.0
                self._arm(gateway.timeouts.queue_s)
        except Rejection as refusal:
            self.fail(errors.from_refusal(refusal))
        except Exception as error:
            self.broke(error)

    def submit(self) -> None:
        """Ask for an instance. Raises ``Rejection``."""
        self.gateway.manager.submit(self, self.measure)

    def measure(self) -> None:
        """Measure its prompt, which is needed only where there is something to decide."""
        gateway = self.gateway
        measure(self.request, self.prompt, gateway.manager.estimates, gateway.shortest)
        self.prompt = b""

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        """An instance has a slot for it: send it there."""
        gateway = self.gateway
        if self.waited_ms >= 0:
            waited = gateway.clock() - self.queued_at
            self.waited_ms = waited * 1000
            gateway.stats.waits.observe(waited)
        if instance.state is _READY:
            self.tried_healthy = True
        try:  # the manager may be at others' requests beside this one
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
        """It waited, and what it waited for is gone."""
        try:
            self.fail(errors.from_refusal(refusal))
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
        upstream, head, body, gateway = self.upstream, self.head, self.body, self.gateway
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
            if upstream.doubted:
                upstream.answered(status)
            return
        upstream.answered(status)
        if status in REFUSED_STATUSES and self._may_retry():
            self.attempt.abandon()
            self._retry()
        elif (
            upstream.dialect.looks_at(status, self.route.path)
            or upstream.may_lack_route(status)
            or (status in TOO_LONG and self._no_larger())
        ) and (length or 0) <= MAX_HELD:
            self.buffered_error = []

    def engine_sends(self, piece: Data, end: bool) -> None:
        if self.phase is _DELIVERING:
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
            # Not at the head: vLLM sends that at once, and the first token much later. Until then the
            # request may still go elsewhere.
            self._let_go(piece, end, self.gateway.clock() - self.attempt.sent_at)

    def engine_failed(self, how: Broken, detail: str) -> None:
        attempt = self.attempt
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
        """It hangs or sleeps: nothing came yet, so a healthy one may do the work instead, long before our own time is up."""
        if self.phase is not _SENT:
            return
        attempt = self.attempt
        if self.gateway.manager.is_lost(self, attempt.instance) and self._may_retry():
            attempt.abandon()
            self._retry()
        elif refusal := asleep(self.request.model, (attempt.instance,)):
            attempt.abandon()
            self.fail(errors.from_refusal(refusal))

    def not_connected(self, error: OSError) -> None:
        self._end_or_retry(*self.attempt.refusal(error))

    # Retrying

    def _may_retry(self) -> bool:
        instance = self.attempt.instance
        if instance not in self.tried:
            self.tried += (instance,)
        return len(self.tried) <= self.gateway.retries and self.gateway.manager.can_retry(self)

    def _retry(self) -> None:
        self._leave_attempt()
        self._move(Phase.QUEUED)
        try:
            self.gateway.manager.retry(self)
        except Rejection as refusal:
            self.fail(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self._arm(self.gateway.timeouts.queue_s)

    def _leave_attempt(self) -> None:
        """The attempt has ended, and with it the answer. Its connection is closed, or in the pool again."""
        self.attempt.connection = self.attempt.answer = None

    def _end_or_retry(self, error: ApiError, may_retry: bool) -> None:
        if may_retry:
            self._elsewhere_or(error)
        else:
            self.fail(error)

    def _elsewhere_or(self, error: ApiError) -> None:
        if self._may_retry():
            self._retry()
            return
        if not self.tried_healthy:  # all that were tried had failed before
            error = errors.no_healthy_instance(self.request.model, error.message)
        self.fail(error)

    def _judge(self, body: bytes) -> None:
        """An engine's error is here as a whole: it may mean "draining", or need our error shape."""
        attempt = self.attempt
        upstream, answer = attempt.upstream, attempt.answer
        assert answer is not None
        self.buffered_error = None
        sent = body
        if coding := coding_of(answer):
            try:
                body = decoded(coding, body, MAX_ERROR)
            except CodingError:  # the caller may read it all the same
                self._let_go(sent, True)
                return
        if upstream.dialect.means_draining(self.status, body):
            upstream.draining()
            if self._may_retry():
                self._retry()
                return
        if upstream.lacks_route(self.status, self.route.path, body):
            self._go_on_elsewhere()
            return
        if self.status in TOO_LONG and says_too_long(body) and (too_small := self._no_larger()):
            self.tried += too_small
            self._go_on_elsewhere()
            return
        wrapped = self._wrapped(body)
        if wrapped is not None:
            attempt.answer, self.length = ResponseHead(self.status, JSON), len(wrapped)
        self._let_go(sent if wrapped is None else wrapped, True)

    def _wrapped(self, body: bytes) -> bytes | None:
        """The engine's error in the API's shape, where its own would not be understood."""
        return self.upstream.dialect.wrapped_error(self.status, self.route.path, body)

    def _no_larger(self) -> tuple[ExecutionInstance, ...]:
        """The instances whose context is no larger than that of its own, where a healthy one is larger; otherwise none."""
        return self.gateway.manager.no_larger(self, self.attempt.instance)

    def _go_on_elsewhere(self) -> None:
        """The instance cannot serve the request and lost no time with it: that is no retry."""
        self._place_anew(None)

    def _place_anew(self, began_at: ExecutionInstance | None) -> None:
        """``began_at`` is an instance that may go on with the request although it drains."""
        self._leave_attempt()
        self._move(Phase.QUEUED)
        try:
            self.gateway.manager.go_on(self, began_at)
        except Rejection as refusal:
            self.fail(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self._arm(self.gateway.timeouts.queue_s)

    def broke(self, error: Exception) -> None:
        """An exception of our own, while something was done for this request: it ends, and no other does."""
        report_of(self.caller_id, error, self.request_id)
        if FINAL[self.phase]:
            return
        try:
            self._abandon()
            if self.phase is _DELIVERING:
                self._cut(errors.cut_short(self._at, "gave an answer that could not be relayed"))
            elif self._began:
                self.caller.transport.abort()  # its end must not look like an answer's
                self._move(Phase.CANCELLED)
            else:
                self.fail(errors.internal(self.caller_id))
        except Exception as another:
            report_of(self.caller_id, another, self.request_id)
            self.phase, self.response_complete = Phase.CANCELLED, True
            self.caller.transport.abort()
        # At the end of the turn: until then the manager may not have counted what it placed.
        self.gateway.loop_batch.later(self.gateway.manager.release, self)

    # What the caller and the clock do

    def caller_left(self) -> None:
        """The caller closed its connection: nobody wants the answer."""
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
            self.gateway.manager.withdraw(self)
            message = f"no instance had a free slot within {timeouts.queue_s:g} s (timeouts.queue_s)"
            wait = self.gateway.manager.retry_after()
            self.fail(errors.from_refusal(Rejection(Reason.QUEUE_TIMEOUT, message, retry_after_s=wait)))
        elif self.phase is Phase.CONNECTING:
            self._end_or_retry(*self.attempt.connect_timeout(timeouts.connect_s))
        elif self.phase is Phase.SENT:
            # Not sent elsewhere: the engine may be at work on it, and the next one would take as long.
            self._abandon()
            self.fail(errors.upstream_timeout(self._at, timeouts.first_byte_s))
        elif self.phase is Phase.DELIVERING:
            self._abandon()
            self._cut(errors.cut_short(self._at, f"was silent for {timeouts.stream_idle_s:g} s"))

    def gateway_stops(self) -> None:
        """The time to finish is over: an answer under way must not look whole."""
        if self.phase is Phase.DELIVERING:
            self._abandon()
            self._cut(errors.gateway_stopped())

    def _abandon(self) -> None:
        """Let go of queue place, connection attempt and connection, whichever there is."""
        if self.phase is Phase.QUEUED:
            self.gateway.manager.withdraw(self)
        if self.attempt is not None:
            self.attempt.abandon()
