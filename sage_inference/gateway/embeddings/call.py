"""One engine call: placed by the scheduler, sent, and its answer or its failure reported to the service.

    ASKING ─placed─▶ PLACED, with an attempt ─▶ ENDED
       ▲                 │ refused, closed, 502/503/429
       └──── elsewhere ──┘

A call that was not made for certain texts takes them when it is placed: what waits until then goes along.
An answer for one caller only is that caller's from its first byte on: the call ends, and the attempt is transferred to
the caller's exchange, which relays the answer like any other. All other answers are buffered to their end. A request
that is a call as it is needs no ``EmbeddingCall``, until somebody joins or something fails: see
``EmbeddingExchange.send_call`` and ``take_from``.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING

from sage_inference.control_plane.embedding import EmbeddingBatch
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.rejections import asleep
from sage_inference.control_plane.submission import Waiting
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.receiver import Broken
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings.call_listener import CallListener
from sage_inference.gateway.embeddings.caller import EmbeddingCaller
from sage_inference.gateway.embeddings.engine_error import EngineAnswer, Meaning
from sage_inference.gateway.embeddings.merged_call import merged_message
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.attempt import Attempt, AttemptState
from sage_inference.gateway.relay.phase import Phase
from sage_inference.requests.rejection import Rejection
from sage_inference.types import ExecutionInstance, RequestType, SchedulingDecision, SchedulingRequest
from sage_inference.wire.isolation import report_of
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream

MAX_ANSWER_BYTES = 1 << 28
MERGED = "(merged)"  # where rows of requests show the key of their caller
_ELSEWHERE = frozenset({Meaning.DRAINING, Meaning.DIED, Meaning.BUSY, Meaning.NO_ROUTE})


class State(IntEnum):
    ASKING = 0  # it waits in the scheduler for a slot
    PLACED = 1
    ENDED = 2


class EmbeddingCall:
    """A submission to the scheduler, and the owner of an attempt."""

    __slots__ = (
        "service",
        # The message.
        "merge_queue",
        "batch",
        "alone",
        "request",
        "request_id",
        "route",
        "size",
        # Its way to an engine.
        "state",
        "place",
        "failed_at",
        "upstream",
        "attempt",
        "deadline",
        "wakes_at",
        # The answer.
        "answered_at",
        "length",
        "pieces",
        "busy_s",
    )

    request: SchedulingRequest
    request_id: bytes
    route: str
    upstream: Upstream  # that was asked last; None until one is
    attempt: Attempt  # the last one, unless it was transferred; None until it is placed
    answered_at: float | None  # when the first byte of the answer's body came
    length: int | None
    pieces: list[Data]
    busy_s: float  # its share of the busy time of instances, of all its attempts

    def __init__(
        self,
        service: CallListener[EmbeddingCall],
        merge_queue: MergeQueue,
        batch: EmbeddingBatch | None = None,
    ) -> None:
        self.service = service
        self.merge_queue = merge_queue
        self.batch = batch
        self.request_id = service.gateway.new_id()
        self.request = SchedulingRequest(
            self.request_id.decode(),
            RequestType.EMBEDDING,
            merge_queue.model,
            merge_queue.route,
            prompt_tokens=batch.tokens if batch else service.next_tokens(merge_queue),
            key=MERGED,
        )
        self.size = 0  # its texts are counted by the batcher
        self.failed_at: tuple[ExecutionInstance, ...] = ()
        self.state = State.ASKING
        self.place: Waiting | Placement | None = None  # the scheduler's own
        self.alone: EmbeddingCaller | None = None  # whose own request this call is
        self.upstream = self.attempt = None  # type: ignore[assignment]
        # Both are the timer wheel's own.
        self.deadline = math.inf
        self.wakes_at = 0.0
        self.answered_at = self.length = None
        self.pieces = []
        self.busy_s = 0.0

    @property
    def tried(self) -> tuple[ExecutionInstance, ...]:
        """Instances where the call failed, and, until it has texts, those where another call would only wait."""
        return (
            self.failed_at + self.service.closed_to(self.merge_queue)
            if self.batch is None
            else self.failed_at
        )

    # The scheduler

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        """Choose the texts now that an instance has a slot: texts that came meanwhile go along."""
        service = self.service
        try:  # the scheduler may be placing requests of others
            self.upstream = upstream = service.gateway.engines[instance.instance_id]
            # Both before the texts are taken: if that fails, ``broke`` has to know what there is to end.
            self.attempt = Attempt(upstream, instance)
            self.state = State.PLACED
            if not service.fill(self):
                self._end()
                return
            assert self.batch is not None
            # The slot was asked for with the tokens that waited then. The load has to be that of the texts taken now.
            self.request.prompt_tokens = self.batch.tokens
            service.gateway.scheduler.resized(self, self.batch.tokens)
            connection = upstream.pool.acquire()
            if connection is None:
                self._connect()
            else:
                self.connected(connection)
        except Exception as error:
            self.broke(error)

    def refused(self, refusal: Rejection) -> None:
        """End a call that waited for a slot, because there will be none."""
        self.state = State.ENDED
        try:
            self.service.refused(self, errors.from_refusal(refusal))
        except Exception as error:
            self.broke(error)

    # The engine

    def _connect(self) -> None:
        self.service.gateway.wheel.set(self, self.service.gateway.timeouts.connect_s)
        self.attempt.connect(self)

    def connected(self, connection: EngineConnection) -> None:
        """Write the call, on a connection that is free."""
        gateway, attempt = self.service.gateway, self.attempt
        assert self.batch is not None
        self.pieces = []  # of an answer that broke off before this one was sent again
        service, engine, batch = self.service, self.upstream, self.batch
        # A caller's own message goes on as it came: it is not built anew, and its answer can be relayed unread.
        self.alone = alone = service.alone(batch)
        if alone is not None:
            self.request_id, self.route = alone.request_id, alone.route.path
            self.request.key = alone.request.tenant or alone.request.key
            start, body = engine.starts.get(alone.head) or engine.start_of(alone.head), alone.body
        else:
            self.route = self.merge_queue.route
            start, body = merged_message(engine, self.route, batch, service.callers(batch))
        head = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (start, self.request_id, len(body))
        attempt.sent(connection, gateway.clock())
        gateway.wheel.set(self, gateway.timeouts.first_byte_s)
        connection.send(self, head, body)

    def take_from(self, caller: EmbeddingCaller) -> None:
        """Go on with a call that ``caller`` had sent itself, because it concerns others too, or failed."""
        wheel = self.service.gateway.wheel
        self.alone, self.request_id, self.route = caller, caller.request_id, caller.route.path
        self.state, self.upstream = State.PLACED, caller.upstream
        caller.attempt.transfer_to(self, caller)
        # The caller's deadline goes on: a transfer must not give the engine more time.
        if caller.phase is Phase.SENT:
            wheel.set(self, caller.caller.deadline - wheel.now)
        elif self.attempt.connecting is not None:
            self.attempt.abandon()  # a connection being made would report to the caller
            self._connect()

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        self.attempt.answer, self.length = answer, length
        self.upstream.answered(answer.status)

    def engine_sends(self, piece: Data, end: bool) -> None:
        try:
            attempt = self.attempt
            answer = attempt.answer
            assert answer is not None
            if not self.pieces:
                # Only now, because another caller may have joined since the call was sent.
                if answer.status == 200 and (caller := self.service.sole_caller(self)) is not None:
                    self._transfer(caller, piece, end)
                    return
                gateway = self.service.gateway
                self.answered_at = now = gateway.clock()
                # After a stall of this process the time would be its own, and not the engine's.
                if gateway.ran_since(attempt.sent_at):
                    self.upstream.ttfb.observe(now - attempt.sent_at)
                gateway.scheduler.first_byte(self)
            self.pieces.append(piece)
            if end:
                attempt.connection = None  # it is in the pool again, and may serve another call already
                assert self.batch is not None
                self._answered(EngineAnswer.of(answer, self.pieces, self.upstream, len(self.batch)))
            # An engine that never ends its answer must not fill the memory.
            elif sum(map(len, self.pieces)) > MAX_ANSWER_BYTES:
                attempt.abandon()
                self._elsewhere_or(
                    attempt.failed(Broken.GARBAGE, f"answered with more than {MAX_ANSWER_BYTES} bytes")
                )
            else:
                self.service.gateway.wheel.set(self, self.service.gateway.timeouts.stream_idle_s)
        except Exception as error:
            self.broke(error)

    def _transfer(self, caller: EmbeddingCaller, piece: Data, end: bool) -> None:
        """Transfer the attempt to the only caller, which relays the answer from its first byte on."""
        try:
            self._note_answer()
            if end:
                self.attempt.connection = None  # it is in the pool again
            caller.relay_answer_of(self)
            self._end()
            caller.engine_sends(piece, end)
        except Exception as error:
            if self.state is not State.ENDED:
                self._abandon()
                self._end()
            caller.broke(error)  # nobody else is concerned: the call has no other caller

    def _note_answer(self) -> None:
        assert self.batch is not None
        self.service.gateway.wheel.advance()
        self.upstream.window.answered(self.batch, self.attempt.sent_at, self.service.gateway.clock())

    def engine_failed(self, how: Broken, detail: str) -> None:
        try:
            # A head alone does not count as begun here: a text that is embedded twice harms nobody.
            if self.attempt.disconnected(how, begun=bool(self.pieces)):
                self._connect()
            else:
                self._elsewhere_or(self.attempt.failed(how, detail))
        except Exception as error:
            self.broke(error)

    def engine_is_silent(self) -> None:
        """Leave an engine that hangs or sleeps, long before the timeout, if a healthy one can do the work."""
        if self.state is not State.PLACED or self.attempt.connection is None:
            return
        try:
            self._leave_silent()
        except Exception as error:
            self.broke(error)

    def _leave_silent(self) -> None:
        gateway, gone = self.service.gateway, self.attempt.instance
        # The instance itself is one of the tries, and a call may have been there before.
        may_leave = len({*self.failed_at, gone}) <= gateway.retries
        if may_leave and gateway.scheduler.is_lost(self, gone):
            self._abandon()
            self._elsewhere_or(errors.upstream_unreachable(gone.instance_id, "hangs"))
        elif refusal := asleep(self.request.model, (gone,)):
            self._abandon()
            self._fail(errors.from_refusal(refusal))

    def not_connected(self, error: OSError) -> None:
        try:
            self._end_or_retry(*self.attempt.refusal(error))
        except Exception as another:
            self.broke(another)

    def _end_or_retry(self, error: ApiError, may_retry: bool) -> None:
        if may_retry:
            self._elsewhere_or(error)
        else:
            self._fail(error)

    def _fail(self, error: ApiError) -> None:
        """End the call, and fail its callers with ``error``."""
        self._end()
        self.service.failed(self, error)

    def timed_out(self) -> None:
        try:
            self._time_out()
        except Exception as error:
            self.broke(error)

    def _time_out(self) -> None:
        timeouts = self.service.gateway.timeouts
        if self.state is State.ASKING:
            self.service.gateway.scheduler.withdraw(self)
            self.state = State.ENDED
            self.service.failed(self, errors.from_refusal(self.service.gateway.queue_timeout()))
            return
        attempt = self.attempt
        if attempt.state is AttemptState.CONNECTING:
            self._end_or_retry(*attempt.connect_timeout(timeouts.connect_s))
            return
        # Not sent elsewhere: the engine may be at work on it, and the next one would take as long.
        seconds = timeouts.stream_idle_s if self.pieces else timeouts.first_byte_s
        attempt.abandon()
        self._fail(errors.upstream_timeout(attempt.at, seconds))

    # How it ends

    def cancel(self) -> None:
        """Break the call off, because nobody wants its vectors. The engine sees the connection end."""
        # A call that was ended already has nothing left: a caller may leave while its failure is reported.
        if self.state is State.ASKING:
            self.service.gateway.scheduler.withdraw(self)
            self.service.gateway.wheel.remove(self)
            self.state = State.ENDED
        elif self.state is not State.ENDED:
            self._abandon()
            self._end()

    def broke(self, error: Exception) -> None:
        """End the call and its callers' requests after an exception of our own."""
        report_of(self.request_id, error)
        gateway = self.service.gateway
        if self.state is State.ASKING:
            gateway.scheduler.withdraw(self)
        try:
            self._abandon()
            if self.state is not State.ENDED:
                self._end()
        except Exception as another:
            report_of(self.request_id, another)
            self.state = State.ENDED
        gateway.wheel.remove(self)
        self.service.broke(self, errors.internal(self.request_id))
        # Later, because the scheduler may be in the middle of placing this call.
        gateway.loop_batch.later(gateway.scheduler.release, self)

    def _answered(self, answer: EngineAnswer) -> None:
        meaning = answer.meaning(self.route)
        if meaning is Meaning.DRAINING:
            self.upstream.draining()
        elif meaning is Meaning.DIED:
            self.upstream.died()
        if meaning in _ELSEWHERE:
            self._elsewhere_or(answer, lost_time=meaning is not Meaning.NO_ROUTE)
            return
        if meaning is Meaning.VECTORS:
            self._note_answer()
        # Before the service gets the answer, because it may send the same texts again at once.
        self._end()
        if meaning is Meaning.VECTORS:
            self.service.answered(self, answer)
        elif meaning is Meaning.NONSENSE:
            self.service.unusable(self, f"answered with status {answer.status} instead of vectors")
        else:
            self.service.rejected(self, answer)

    def _elsewhere_or(self, error: ApiError | EngineAnswer, *, lost_time: bool = True) -> None:
        """Try another instance, whatever went wrong: embedding a text twice harms nobody.

        An attempt that lost no time is no retry: where no instance is left, the error is the gateway's own.
        """
        gateway = self.service.gateway
        instance = self.attempt.instance
        if instance not in self.failed_at:
            self.failed_at += (instance,)
        again = not lost_time or (
            len(self.failed_at) <= gateway.retries and gateway.scheduler.can_retry(self)
        )
        # The slot is free before another one is asked for, or the call would count twice.
        self._end()
        if not again:
            self.service.gave_up(self, error)
            return
        self.state = State.ASKING
        self.answered_at = None
        self.pieces = []
        try:
            self.service.retry(self)
        except Rejection as refusal:
            self.state = State.ENDED
            self.service.failed(self, errors.from_refusal(refusal))

    def _end(self) -> None:
        """The one place where the window and the slot are released. A transferred slot is not the call's any more."""
        self.state = State.ENDED
        self.service.gateway.wheel.remove(self)
        self.service.left(self)
        placement = self.place
        self.service.gateway.scheduler.release(self)
        if isinstance(placement, Placement):
            self.busy_s += placement.busy_s

    def _abandon(self) -> None:
        if self.attempt is not None:
            self.attempt.abandon()
