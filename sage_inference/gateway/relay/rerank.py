"""A rerank request: relayed as it came to an engine that speaks its API, translated call by call for any other.

    QUEUED ─▶ SENT, some of the documents ─answered─▶ QUEUED ─▶ SENT, the next … ─answered─▶ DONE

The phases are those of any exchange. TEI takes a bounded number of texts, so a request may need several calls. Each
call is placed on its own: other callers' requests go between the calls, and any instance of the model may take one.
Nothing is delivered before the last call is answered, so each call may be repeated elsewhere.
"""

from __future__ import annotations

from copy import copy

from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.engines.permits import texts_a_call
from sage_inference.gateway import errors
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import ACCEPT_IDENTITY, RequestHead
from sage_inference.gateway.relay.phase import Phase
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.rerank import (
    ENGINE_ROUTE,
    BadRanksError,
    Ranks,
    RerankRequest,
    answer_body,
    call_body,
    end_of_call,
    ranks_of,
    read_request,
    tokens_of,
)
from sage_inference.types import EngineKind, ExecutionInstance, SchedulingDecision
from sage_inference.wire.body_coding import CodingError, coding_of, decoded
from sage_inference.wire.message import Data, ResponseHead

MAX_ANSWER = 1 << 20  # bytes of an engine's answer to a call
_TOO_MANY = frozenset({413, 422})
_JSON = (b"content-type", b"application/json")
_REPLACED = (b"accept-encoding:", b"content-type:")


class RerankExchange(Exchange):
    """``wanted`` is the parsed request, None if no engine needs it translated.

    ``call`` is the range of texts that was sent, None for a request that is relayed as it came.
    """

    wanted: RerankRequest | None = None
    call: tuple[int, int] | None = None
    own_body = b""
    own_head: RequestHead
    call_head: RequestHead
    _ranks: Ranks
    _most_texts = 0  # texts that a call may have by an engine's refusal, 0 if none limited them
    _waited_ms = -1.0  # the wait of the calls before, below 0 if there was none

    # Events that move it forward

    def submit(self) -> None:
        """Raises ``Rejection``."""
        group = self.gateway.registry.group(self.request.model, self.route.path)
        if any(instance.engine is EngineKind.TEI for instance in group):
            self._translate()
        super().submit()

    def _translate(self) -> None:
        self.wanted = read_request(self.route.path, self.body)
        self.own_body, self.own_head = self.body, self.head
        self._ranks = []
        if self.wanted is not None:
            self.call_head = head = copy(self.head)
            head.is_cached = False
            head.lines, head.keyed_lines = _as_ours(head.lines), _as_ours(head.keyed_lines)

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        if instance.engine is EngineKind.TEI and not self.own_body:  # a TEI instance was added meanwhile
            try:
                self._translate()
            except Rejection as refusal:
                self.refused(refusal)
                self.gateway.loop_batch.later(self.gateway.scheduler.release, self)
                return
        if self.wanted is not None:
            try:
                self._prepare(self.wanted, instance)
            except Exception as error:
                self.broke(error)
                return
        super().placed(instance, decision)
        if self._waited_ms >= 0:
            self.waited_ms, self._waited_ms = max(0.0, self.waited_ms) + self._waited_ms, -1.0

    def _prepare(self, wanted: RerankRequest, instance: ExecutionInstance) -> None:
        """Set the body and the head that this instance gets."""
        if instance.engine is not EngineKind.TEI:
            # It gets the caller's own request and ranks all documents: ranks of calls before are not needed.
            self.call, self.body, self.head = None, self.own_body, self.own_head
            self._ranks, self.prompt_tokens = [], 0
            return
        upstream = self.gateway.engines[instance.instance_id]
        limits = upstream.detected.limits if upstream.detected is not None else {}
        most = self._most_texts or texts_a_call(limits)
        start = len(self._ranks)
        end = end_of_call(wanted, start, most, upstream.dialect.payload_bytes)
        self.call, self.body = (start, end), call_body(wanted, start, end)
        self.head = self.call_head

    # Called by the engine's connection

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        super().engine_answers(answer, length)
        if self.call is not None and self.attempt.answer is answer:
            self.buffered_error = []

    def _judge(self, body: bytes) -> None:
        upstream, answer = self.upstream, self.attempt.answer
        assert answer is not None
        if self.call is None:
            super()._judge(body)
        elif self.status == 200:
            self._ranked(answer, body)
        elif self.status < 400:  # neither an error nor a ranking
            self.attempt.connection = None
            self._unusable(f"answered with status {self.status} instead of a ranking")
        elif (
            self.status in _TOO_MANY
            and (allowed := upstream.dialect.texts_allowed(body))
            and 0 < allowed < self.call[1] - self.call[0]
        ):
            self._most_texts = allowed
            self._go_on()
        else:
            super()._judge(body)

    def _wrapped(self, body: bytes) -> bytes | None:
        if self.call is None:
            return super()._wrapped(body)
        return self.upstream.dialect.wrapped_error(self.status, "/v1" + ENGINE_ROUTE, body)

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        """A long answer is buffered, too, because only a complete one can be translated."""
        if self.call is None or self.buffered_error is None or end:
            super()._let_go(piece, end, took)
        elif len(piece) <= MAX_ANSWER:
            self.buffered_error = [piece]
        else:
            self._unusable(f"answered with over {MAX_ANSWER} bytes")

    def _ranked(self, answer: ResponseHead, body: bytes) -> None:
        """A call is answered: send the next one, or answer the caller."""
        gateway, call, wanted = self.gateway, self.call, self.wanted
        assert call is not None
        assert wanted is not None
        attempt = self.attempt
        attempt.connection = None  # the pool has it again
        if gateway.ran_since(attempt.sent_at):
            self.took = gateway.clock() - attempt.sent_at
        start, end = call
        try:
            coding = coding_of(answer)
            plain = decoded(coding, body, MAX_ANSWER) if coding else body
            self._ranks += ranks_of(plain, start, end - start)
        except (BadRanksError, CodingError) as error:
            self._unusable(str(error))
            return
        self.prompt_tokens += tokens_of(answer.headers)
        if end < len(wanted.texts):
            self.tried = ()
            self._go_on()
        else:
            self._answer(wanted)

    def _unusable(self, detail: str) -> None:
        """Fail, because the engine's answer cannot be used. No other instance is asked."""
        self.buffered_error = None
        self._abandon()
        self.fail(errors.upstream_unreachable(self._at, detail))

    def _go_on(self) -> None:
        """Submit the rest of the documents as a new call."""
        self.buffered_error = None
        if self.waited_ms >= 0:
            self._waited_ms = max(0.0, self._waited_ms) + self.waited_ms
        self.waited_ms = -1.0
        self._place_anew(self.attempt.instance)
        if self.phase is Phase.QUEUED:
            self.waited_ms, self.queued_at = 0.0, self.gateway.clock()

    # The caller's answer

    def _answer(self, wanted: RerankRequest) -> None:
        body = answer_body(
            self.own_head.route.path,
            wanted,
            self._ranks,
            model=self.request.model,
            tokens=self.prompt_tokens,
            request_id=self.caller_id.decode("latin-1"),
        )
        self.buffered_error = self.attempt.connection = None
        self.length = len(body)
        head = self._head(ResponseHead(200, [_JSON]), self.length)
        if len(body) < JOIN_BYTES:
            self.caller.write(head + body)
        else:
            self.caller.writelines((head, body))
        self._move(Phase.DONE)

    def _drop_body(self) -> None:
        super()._drop_body()
        self.own_body, self.wanted, self._ranks = b"", None, []


def _as_ours(lines: bytes) -> bytes:
    """Header lines for a translated call: the gateway writes its body, and reads its answer."""
    kept = [line for line in lines.split(b"\r\n") if not line.startswith(_REPLACED)]
    return ACCEPT_IDENTITY + b"content-type: application/json\r\n" + b"\r\n".join(kept)
