"""Prefill/decode disaggregation: one engine works off a request's prompt, another one generates the answer.

    QUEUED ─▶ SENT, the prompt, to a prefilling instance ─answered─▶ QUEUED ─▶ SENT, the rest, to a decoding one …

A request has two legs, and each is one attempt. The phases are those of any exchange: the prefill leg ends in
QUEUED, as an attempt does that is followed by a retry. The exchange holds the slot of one instance at a time, and
its caller and deadlines are treated as in any other exchange.

Until a byte is delivered, a leg that fails may be repeated. The prompt goes to another prefilling instance. Where
the decoding instance failed, both legs are repeated, because the blocks may be gone. A request that cannot be split
is served aggregated: one instance does all of it, see ``control_plane.instances.prefill_decode``.
"""

from __future__ import annotations

import logging
import weakref
from copy import copy
from typing import TYPE_CHECKING

import msgspec

from sage_inference.control_plane.accounting.retry_budget import may_retry
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
    asking_identity,
    decode_body,
    kv_params_of,
    prefill_body,
    read_fields,
)
from sage_inference.gateway.relay.phase import FINAL, Phase
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

MAX_ANSWER = 4 << 20  # bytes of a prefilling engine's answer: it names every block
_STREAMED_ERROR = b'data: {"error"'  # a stream has begun with 200 when its engine fails to fetch the blocks

log = logging.getLogger("sage_inference.relay")
# Engines for which it was logged that they report no blocks.
_without_kv_transfer: weakref.WeakSet[Upstream] = weakref.WeakSet()


class PrefillDecodeExchange(Exchange):
    """``leg`` is the one that was sent last: PREFILL, DECODE, or None for a request that is served aggregated.

    ``fields`` is the body while it may be split, ``params`` the place of the prompt's blocks.
    """

    original: SchedulingRequest  # as the caller sent it; ``request`` is the leg that is placed now
    own_body: bytes  # the caller's; ``body`` is that of the leg
    own_head: RequestHead
    fields: Fields | None = None
    params: msgspec.Raw | None = None
    leg: str | None = None
    prefilled_by: Upstream | None = None
    _prefill: Placement | None = None
    _first_byte_s: float | None = None  # both legs share one time limit: the part that the prefill left
    _waited_ms = -1.0  # the wait of the legs before, below 0 if there was none

    # Events that move it forward

    def submit(self) -> None:
        registry, model, path = self.gateway.registry, self.request.model, self.route.path
        self.original, self.own_body, self.own_head = self.request, self.body, self.head
        if registry.is_disaggregated(model):
            fields = read_fields(self.body, model)
            if path in KV_TRANSFER_ROUTES and registry.can_disaggregate(model, path):
                self.fields = fields
        self.measure()
        if self.fields is not None:
            self.request = prefill_leg(self.original)
        self.gateway.scheduler.submit(self)

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        kind, route, fields = instance.instance_type, self.request.route, self.fields
        self.leg, self.body, self.head = None, self.own_body, self.own_head
        if fields is None:
            pass
        elif kind is ExecutionInstanceType.PREFILLING and route.endswith(PREFILL):
            self.leg, self.body = PREFILL, prefill_body(fields)
            # The head may be cached for other requests: change a copy, and keep the copy out of ``starts``.
            self.head = copy(self.head)
            self.head.is_cached = False
            self.head.lines, self.head.keyed_lines = (
                asking_identity(self.head.lines),
                asking_identity(self.head.keyed_lines),
            )
        elif kind is ExecutionInstanceType.DECODING and route.endswith(DECODE) and self.params is not None:
            self.leg, self.body = DECODE, decode_body(fields, self.params)
        else:  # while the leg waited, the last instance of its kind left
            self._serve_aggregated(self.request)
            if not self.original.streams and isinstance(self.place, Placement):
                # The leg was to stream. Without streaming the first byte comes with the last, so nothing is
                # learned from its time.
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
        # The answer is held back. The caller never gets a prefill's answer, and a decode leg's 500 may mean that
        # the engine could not fetch the blocks.
        fits = (length or 0) <= MAX_HELD
        if self.attempt.answer is answer and (
            self.leg is PREFILL or (self.leg is DECODE and answer.status == 500 and fits)
        ):
            self.buffered_error = []

    def _judge(self, body: bytes) -> None:
        upstream = self.upstream
        if self.leg is not None and not upstream.dialect.means_draining(self.status, body):
            if self.leg is PREFILL and self.status == 200:
                self._pass_kv(upstream, body)
                return
            # An engine may refuse a leg of a request that an engine takes as one. The latter's refusal counts.
            if self._retry_aggregated():
                return
        super()._judge(body)

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        # ``Exchange`` calls this once more than MAX_HELD bytes are buffered. A prefill's answer may be longer.
        if self.leg is PREFILL and self.buffered_error is not None and not end and len(piece) <= MAX_ANSWER:
            self.buffered_error = [piece]
            return
        if self.leg is PREFILL and self.status == 200:  # it is too long, and never the caller's
            self.buffered_error = None
            self._abandon()
            self._elsewhere_or(
                errors.upstream_unreachable(self._at, f"answered with over {MAX_ANSWER} bytes")
            )
            return
        connection = self.attempt.connection
        if (
            self.leg is DECODE
            and piece[: len(_STREAMED_ERROR)] == _STREAMED_ERROR
            and self._retry_aggregated()
        ):
            # The attempt has let go of its connection without closing it: the engine may send more.
            if connection is not None and not end:
                connection.discard()
            return
        super()._let_go(piece, end, took)

    def _pass_kv(self, upstream: Upstream, answer: bytes) -> None:
        """The prefill is done: ask for a decoding instance, and give it the place of the blocks."""
        gateway = self.gateway
        sent_at = self.attempt.sent_at
        if gateway.ran_since(sent_at):
            upstream.ttfb.observe(gateway.clock() - sent_at)
        gateway.scheduler.first_byte(self)
        self._prefill = self.place if isinstance(self.place, Placement) else None
        self._first_byte_s = max(0.0, self.caller.deadline - gateway.wheel.now)
        self.prefilled_by = upstream
        answer = self._decoded(answer)
        self.last = answer
        self.params = kv_params_of(answer)
        self.buffered_error = None
        self._queue_again()
        self._waited_ms, self.waited_ms = self.waited_ms, -1.0
        if self.params is None:
            self._warn_once(upstream)
            self._serve_aggregated(self.original)
        else:
            gateway.stats.handed_over += 1
            self.request = decode_leg(self.original)
        self._go_on()

    def _decoded(self, body: bytes) -> bytes:
        """The body without the content coding, which was not asked for. Empty, thus without blocks, if unreadable."""
        answer = self.attempt.answer
        assert answer is not None
        coding = coding_of(answer)
        try:
            return decoded(coding, body, MAX_ANSWER) if coding else body
        except CodingError:
            return b""

    def _go_on(self) -> None:
        self._resubmit(self.gateway.scheduler.go_on)
        if self.phase is Phase.QUEUED:
            self.waited_ms, self.queued_at = 0.0, self.gateway.clock()

    def _serve_aggregated(self, request: SchedulingRequest) -> None:
        """From here on one instance serves the request, both prefill and decode."""
        self.fields = None
        self.request = request
        self.gateway.stats.handover_failures += 1

    def _warn_once(self, upstream: Upstream) -> None:
        if upstream not in _without_kv_transfer:
            _without_kv_transfer.add(upstream)
            name = upstream.instance.instance_id
            log.warning(
                "instance %s returned no kv_transfer_params: start its vLLM with --kv-transfer-config", name
            )

    # Retrying

    def _may_retry(self) -> bool:
        if self.fields is None:
            return super()._may_retry()
        # ``_may_retry`` asks whether another instance takes ``self.request``: first the leg that failed.
        self.request = (decode_leg if self.leg is DECODE else prefill_leg)(self.original)
        if super()._may_retry():
            # The blocks may be gone with the engine that was to fetch them, so the prefill is repeated, too.
            self.request = prefill_leg(self.original)
            return True
        # No other instance of this kind: then one that takes the request as one.
        self.request = self.original
        if not super()._may_retry():
            return False
        self._serve_aggregated(self.original)
        return True

    def _retry_aggregated(self) -> bool:
        """Send the original request to one instance, even to the same one. Returns False if that is not allowed.

        It is allowed once: ``fields`` is None afterwards.
        """
        gateway = self.gateway
        if self.fields is None or not gateway.registry.group(self.original.model, self.route.path):
            return False
        # A refusal is no retry: a caller of requests that are refused must not use up the retries of others.
        refused = 400 <= self.status < 500
        if not refused and not (gateway.retries and may_retry(gateway.scheduler.rates)):
            return False
        self.buffered_error = None
        self._serve_aggregated(self.original)
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
