"""Accounting at the end of a request or of an attempt: counters, usage, the outcome, and the return of the slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.submission import Waiting
from sage_inference.gateway.body_memory import COUNTED
from sage_inference.gateway.relay.answer_outcome import ABORT, PLAIN_END, WITHOUT_ABORT, failure_of
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.phase import ENDS, OUTCOMES, Phase
from sage_inference.gateway.relay.usage import choices_in, reported
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.rerank import tokens_of
from sage_inference.requests.routes import Route
from sage_inference.types import ExecutionInstance, SchedulingDecision, SchedulingRequest, Usage
from sage_inference.wire.isolation import report_of
from sage_inference.wire.message import Data

if TYPE_CHECKING:
    from sage_inference.gateway.hub import Hub
    from sage_inference.gateway.relay.attempt import Attempt
    from sage_inference.gateway.relay.response import ResponseWriter
    from sage_inference.gateway.upstream import Upstream

# As globals: an enum's members are looked up by a Python call.
_DELIVERING, _DONE = Phase.DELIVERING, Phase.DONE
_PLAIN_END = -PLAIN_END


class Accounted:
    """The part of an exchange that is needed after its answer was written.

    Nothing here delays an answer: it runs at the end of the loop iteration that wrote the answer's last byte.
    """

    # Slots: a class with this many attributes would lose Python's own fast access to them.
    __slots__ = (
        # The request.
        "gateway",
        "head",
        "phase",
        "request",
        "request_id",
        "queued_at",
        "size",
        # Its way to an engine.
        "tried",
        "place",
        "upstream",
        "attempt",
        # The answer.
        "status",
        "length",
        "delivery",
        "last",
        "took",
        "busy_s",
    )

    gateway: Hub
    phase: Phase
    head: RequestHead
    request: SchedulingRequest
    request_id: bytes  # as its engine gets it
    queued_at: float  # the gateway's clock, when the request was complete
    size: int  # bytes of the body
    tried: tuple[ExecutionInstance, ...]  # instances where it must not go any more
    place: Waiting | Placement | None  # the scheduler's: its place in the queue, or its placement
    upstream: Upstream  # the one asked last, or the one that gave the answer; None until one is asked
    attempt: Attempt  # the last one; None until it is placed
    status: int  # of an engine's answer; also the caller's, once the answer is delivered
    length: int | None  # of the answer's body, where its head gives that
    delivery: ResponseWriter  # of an answer that comes in pieces; None until then
    last: Data  # the end of an answer, or all of it
    took: float | None  # seconds to the first byte of the answer's body, until that is noted
    busy_s: float  # its share of the busy time of instances

    answered_at: float | None = None  # when the first byte of a merged answer came; the gateway's clock
    prompt_tokens = 0  # counted by engines for an answer that the gateway made itself
    texts = 0  # to be embedded

    @property
    def route(self) -> Route:
        return self.head.route

    @property
    def caller_id(self) -> bytes:
        """The id that the caller knows the request by; ``request_id`` is its engine's, and mostly the same."""
        return self.head.request_id or self.request_id

    @property
    def instance(self) -> ExecutionInstance | None:
        """The instance that was asked last, or gave the answer."""
        if self.attempt is not None:
            return self.attempt.instance
        return None if self.upstream is None else self.upstream.instance

    @property
    def first_byte_at(self) -> float | None:
        """The gateway's clock when the first byte of the engine's answer came."""
        if self.took is not None:
            return self.attempt.sent_at + self.took
        return self.place.answered_at if isinstance(self.place, Placement) else self.answered_at

    @property
    def counted_tokens(self) -> int | None:
        """The prompt's tokens where the body reports none: those of a merged answer, or of a header of TEI's."""
        answer = None if self.attempt is None else self.attempt.answer
        counted = tokens_of(answer.headers) if answer is not None and answer.status < 400 else 0
        return self.prompt_tokens or counted or None

    # Completed by the exchange

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        raise NotImplementedError

    def refused(self, refusal: Rejection) -> None:
        raise NotImplementedError

    def _drop_body(self) -> None:
        raise NotImplementedError

    def used(self, usage: Usage | None, estimated: tuple[int, int] | None) -> None:
        """The request ended, and used so many tokens. Called only if its key has limits."""

    @property
    def is_answered(self) -> bool:
        raise NotImplementedError

    @property
    def body_bytes(self) -> int | None:
        raise NotImplementedError

    # When an attempt or the request ends

    def _note_first_byte(self) -> None:
        took, self.took = self.took, None
        if took is None:
            return
        attempt, good = self.attempt, self.status < 400
        if attempt.sent_at > self.gateway.stalled_at:
            # Of an answer in one piece the first byte comes with the last, so it shows no time to a first token.
            upstream = attempt.upstream
            (upstream.ttft if good and self.request.streams else upstream.ttfb).observe(took)
        if good:
            self.gateway.scheduler.first_byte(self)

    def _account(self, left: Phase, to: Phase, effect: int) -> None:
        """Note the move ``left`` to ``to``, and give back the slot. No other function gives one back."""
        gateway, placement = self.gateway, self.place
        delivery, last = self.delivery, self.last
        learned = usage = None
        outcome, chunks = OUTCOMES[to], 0
        try:  # the slot is given back whatever happens here
            if to is not _DONE:
                if left is _DELIVERING:
                    last = self.last = delivery.sent()
            elif last and (
                # Most plain answers need no second look: their end has no abort in it, and their engine gave up no answer
                # before. Responses and messages report an abort in other words.
                delivery is not None
                or last.rfind(ABORT, _PLAIN_END) >= 0
                or self.head.route.type in WITHOUT_ABORT
                or self.upstream.health.given_up
            ):
                outcome = self._outcome()
            if last:
                usage = self.reported()
                if delivery is not None and self.head.route.type.is_llm:
                    chunks = delivery.chunks or (0 if usage else _events_after_the_first(last))
            if effect & ENDS:
                if self.head.request_id:
                    answered = to is _DONE and self.status < 500 and not self.tried
                    gateway.request_ids.give_back(self, answered=answered)
                if self.size > COUNTED:
                    self._drop_body()
                if gateway.stats.access is not None:
                    gateway.stats.access.ended(self, outcome, usage)
            if self.took is not None:  # otherwise it was noted when it came, as that of most streams is
                self._note_first_byte()
            if chunks:
                # An engine that reports no usage is assumed to send one token a chunk.
                learned = usage or Usage(0, chunks)
            elif usage is not None and gateway.scheduler.ledger.wants_usage(placement):
                learned = usage
                self._note_choices()
            self.last = b""
        except Exception as error:
            # The answer is written; other requests of this loop iteration must not notice.
            report_of(self.caller_id, error, self.request_id)
        finally:
            gateway.scheduler.release(self, learned, outcome, self.status)
        try:  # its busy time is known only now, and it is counted also if something failed above
            if type(placement) is Placement:
                placement.usage = usage or placement.usage
                self.busy_s += placement.busy_s
                if chunks:
                    self._note_pace(placement, to, usage, chunks)
            if effect & ENDS:
                gateway.stats.ended(self, to, usage, chunks)
        except Exception as error:
            report_of(self.caller_id, error, self.request_id)

    def _note_pace(self, placement: Placement, to: Phase, usage: Usage | None, chunks: int) -> None:
        """Note the mean time of the tokens of a stream that came to its end."""
        if to is _DONE and self.status < 400:
            tokens = chunks if usage is None else usage.completion_tokens
            began, ended = placement.answered_at, placement.ended_at
            if tokens > 1 and began and ended and began > self.gateway.stalled_at:
                self.upstream.tpot.observe((ended - began) / (tokens - 1))

    def reported(self) -> Usage | None:
        """The usage that the engine reported. Valid only while the end of the attempt is being noted."""
        last, delivery = bytes(self.last), self.delivery
        return reported(last) if delivery is None else delivery.reported(last)

    def _note_choices(self) -> None:
        """Note how many choices share the reported tokens. They are generated together, in the time of one."""
        if isinstance(self.place, Placement) and self.place.beside >= 0:
            last = bytes(self.last)
            self.place.answers = choices_in(last) if self.delivery is None else self.delivery.choices(last)

    def _outcome(self) -> str:
        """The outcome of an answer that came to its end. The engine may have given the answer up."""
        kind = self.head.route.type
        if self.status >= 400 or not kind.is_llm:
            return OUTCOMES[_DONE]
        attempt, delivery = self.attempt, self.delivery
        upstream, answer = attempt.upstream, attempt.answer
        assert answer is not None
        from_start = delivery is None or delivery.from_start
        failure = failure_of(answer.stream, kind, bytes(self.last), from_start)
        if failure is None:
            if upstream.health.given_up:
                upstream.health.given_up = 0
            return "done"
        self.gateway.stats.engine_failures += 1
        if failure.status >= 500:
            upstream.gave_up(failure.outcome)
        return failure.outcome


def _events_after_the_first(stream: Data) -> int:
    """The events of a stream that came in one piece. Its last two have no token: the end of the text, and of the stream."""
    return max(0, bytes(stream).count(b"\n\n") - 3)
