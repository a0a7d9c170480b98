"""A request of a model that pairs serve: its prompt goes to one engine, and the rest to another.

    QUEUED ─▶ SENT, the prompt, to a prefilling instance ─answered─▶ QUEUED ─▶ SENT, the rest, to a decoding one …

The phases are those of any exchange; the first leg ends where others would be sent elsewhere, in QUEUED. The
caller, the deadlines and the slot (of one instance at a time) are looked after as ever. Until a byte is
delivered a leg that fails may be repeated: another prefilling instance, or, where the decoding one failed, both
legs, because the blocks may be gone. Requests that no pair can do go whole to where one instance does all, see
``control_plane.pairs``.
"""

from __future__ import annotations

import logging
import weakref
from copy import copy
from typing import TYPE_CHECKING

import msgspec

from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.prefill_decode import (
    DECODE,
    KV_TRANSFER_ROUTES,
    PREFILL,
    decode_leg,
    prefill_leg,
)
from sage_inference.engines.connection import EngineConnection
from sage_inference.gateway import errors
from sage_inference.gateway.relay.exchange import MAX_HELD, Exchange
from sage_inference.gateway.relay.heads import RequestHead
from sage_inference.gateway.relay.kv_transfer import (
    Fields,
    decode_body,
    handed_over,
    prefill_body,
    read_fields,
    uncoded,
)
from sage_inference.gateway.relay.phase import FINAL, Phase
from sage_inference.requests.rejection import Rejection
from sage_inference.telemetry.decisions.document import explain_line
from sage_inference.types import (
    ExecutionInstance,
    ExecutionInstanceType,
    SchedulingDecision,
    SchedulingRequest,
)
from sage_inference.wire.body_coding import CodingError, coding_of, decoded
from sage_inference.wire.message import Data, ResponseHead

if TYPE_CHECKING:
    from sage_inference.gateway.upstream import Upstream

MAX_ANSWER = 4 << 20  # bytes of a prefilling engine's answer, which names every block
_STREAMED_ERROR = b'data: {"error"'

log = logging.getLogger("sage_inference.relay")
_silent: weakref.WeakSet[Upstream] = weakref.WeakSet()  # those that handed nothing over, and were reported


class PrefillDecodeExchange(Exchange):
    """``leg`` is what was sent last: PREFILL, DECODE, or None for the whole request.

    ``fields`` is the body while it may be split, ``params`` where the prompt's blocks are.
    """

    entire: SchedulingRequest  # both legs of it
    own_body: bytes
    own_head: RequestHead
    fields: Fields | None = None
    params: msgspec.Raw | None = None
    leg: str | None = None
    prefilled_by: Upstream | None = None
    _prefill: Placement | None = None
    _first_byte_s: float | None = None  # both legs share one time; what the first left of it
    _waited_ms = -1.0  # what the legs before waited

    # Events that move it forward

    def submit(self) -> None:
        registry, model, path = self.gateway.registry, self.request.model, self.route.path
        self.entire, self.own_body, self.own_head = self.request, self.body, self.head
        if registry.is_disaggregated(model):
            fields = read_fields(self.body, model)
            if path in KV_TRANSFER_ROUTES and registry.can_disaggregate(model, path):
                self.fields = fields
        self.measure()
        if self.fields is not None:
            self.request = prefill_leg(self.entire)
        self.gateway.manager.submit(self)

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        kind, route, fields = instance.instance_type, self.request.route, self.fields
        self.leg, self.body, self.head = None, self.own_body, self.own_head
        if fields is None:
            pass
        elif kind is ExecutionInstanceType.PREFILLING and route.endswith(PREFILL):
            self.leg, self.body = PREFILL, prefill_body(fields)
            self.head = copy(self.head)
            self.head.comes_again = False
            self.head.lines, self.head.keyed_lines = uncoded(self.head.lines), uncoded(self.head.keyed_lines)
        elif kind is ExecutionInstanceType.DECODING and route.endswith(DECODE) and self.params is not None:
            self.leg, self.body = DECODE, decode_body(fields, self.params)
        else:  # it waited for half of a pair, and there is none any more
            self._unsplit(self.request)
            if not self.entire.streams and isinstance(self.place, Placement):
                # Its first byte comes with the last, and teaches nothing.
                self.place.expected_at = self.place.pushed_at
        super().placed(instance, decision)
        if self._waited_ms >= 0:
            self.waited_ms, self._waited_ms = max(0.0, self.waited_ms) + self._waited_ms, -1.0

    def _drop_body(self) -> None:
        super()._drop_body()
        if FINAL[self.phase]:
            self.own_body, self.fields = b"", None

    def _send(self, connection: EngineConnection) -> None:
        super()._send(connection)
        if self._first_byte_s is not None:
            self._arm(self._first_byte_s)

    # Called by the engine's connection

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        super().engine_answers(answer, length)
        # Held back: a prompt's answer is for us; and a 500 may mean that the blocks could not be had.
        fits = (length or 0) <= MAX_HELD
        if self.attempt.answer is answer and (
            self.leg is PREFILL or (self.leg is DECODE and answer.status == 500 and fits)
        ):
            self.buffered_error = []

    def _judge(self, body: bytes) -> None:
        engine = self.upstream
        if self.leg is not None and not engine.dialect.means_draining(self.status, body):
            if self.leg is PREFILL and self.status == 200:
                self._pass_kv(engine, body)
                return
            # A request that the one refuses for a prompt alone, the other may take; and it has the last word.
            if self._whole_instead():
                return
        super()._judge(body)

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        if self.leg is PREFILL and self.buffered_error is not None and not end and len(piece) <= MAX_ANSWER:
            self.buffered_error = [piece]
            return
        if self.leg is PREFILL and self.status == 200:
            self.buffered_error = None
            self._abandon()
            self._elsewhere_or(
                errors.upstream_unreachable(self._at, f"answered with over {MAX_ANSWER} bytes")
            )
            return
        connection = self.attempt.connection
        if self.leg is DECODE and piece[: len(_STREAMED_ERROR)] == _STREAMED_ERROR and self._whole_instead():
            if connection is not None and not end:
                connection.discard()
            return
        super()._let_go(piece, end, took)

    def _pass_kv(self, engine: Upstream, answer: bytes) -> None:
        """The prompt is done: on to the decoding instance."""
        gateway = self.gateway
        sent_at = self.attempt.sent_at
        if gateway.ran_since(sent_at):
            engine.ttfb.observe(gateway.clock() - sent_at)
        gateway.manager.first_byte(self)
        self._prefill = self.place if isinstance(self.place, Placement) else None
        self._first_byte_s = max(0.0, self.caller.deadline - gateway.wheel.now)
        self.prefilled_by = engine
        answer = self._decoded(answer)
        self.last = answer
        self.params = handed_over(answer)
        self.buffered_error = None
        self._leave_attempt()
        self._move(Phase.QUEUED)
        self._waited_ms, self.waited_ms = self.waited_ms, -1.0
        if self.params is None:
            self._note_silent(engine)
            self._unsplit(self.entire)
        else:
            gateway.stats.handed_over += 1
            self.request = decode_leg(self.entire)
        self._go_on()

    def _decoded(self, body: bytes) -> bytes:
        """Nobody asked for a coding; an engine's answer that cannot be read names no blocks."""
        answer = self.attempt.answer
        assert answer is not None
        coding = coding_of(answer)
        try:
            return decoded(coding, body, MAX_ANSWER) if coding else body
        except CodingError:
            return b""

    def _go_on(self) -> None:
        gateway = self.gateway
        try:
            gateway.manager.go_on(self)
        except Rejection as refusal:
            self.fail(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self.waited_ms, self.queued_at = 0.0, gateway.clock()
                self._arm(gateway.timeouts.queue_s)

    def _unsplit(self, request: SchedulingRequest) -> None:
        """From here on one instance does it all."""
        self.fields = None
        self.request = request
        self.gateway.stats.handover_failures += 1

    def _note_silent(self, engine: Upstream) -> None:
        if engine not in _silent:
            _silent.add(engine)
            name = engine.instance.instance_id
            log.warning("instance %s hands no prompts over: has its vLLM a --kv-transfer-config?", name)

    # Retrying

    def _may_retry(self) -> bool:
        if self.fields is None:
            return super()._may_retry()
        # Blocks may be gone with the engine that was to fetch them: the prompt is done again.
        self.request = (decode_leg if self.leg is DECODE else prefill_leg)(self.entire)
        if super()._may_retry():
            self.request = prefill_leg(self.entire)
            return True
        self.request = self.entire
        if not super()._may_retry():
            return False
        self._unsplit(self.entire)
        return True

    def _whole_instead(self) -> bool:
        """Once: let one instance do it all, the same one if there is no other; False where that may not be."""
        gateway = self.gateway
        if self.fields is None or not gateway.registry.group(self.entire.model, self.route.path):
            return False
        # A caller of refused requests must not use up the retries of others.
        refused = 400 <= self.status < 500
        if not refused and not (gateway.retries and gateway.manager.rates.may_retry()):
            return False
        self.buffered_error = None
        self._unsplit(self.entire)
        if refused:
            self._leave_attempt()
            self._move(Phase.QUEUED)
            self._go_on()
        else:
            self._retry()
        return True

    # The caller's answer

    def _head(self, answer: ResponseHead, length: int | None) -> bytes:
        head = super()._head(answer, length)
        if self.prefilled_by is None:
            return head
        return b"%bx-sage-prefill-%b\r\n" % (head[:-2], self.prefilled_by.header.removeprefix(b"x-sage-"))

    def _why(self) -> str:
        if self._prefill is None:
            return super()._why()
        return f"prefill {explain_line(self._prefill)} | decode {super()._why()}"
