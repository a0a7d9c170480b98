"""Requests that are traced. Where tracing is off, none of this runs: their exchanges are of the plain types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sage_inference.control_plane.instances.load import Placement
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.receiver import Broken
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.phase import ENDS, OUTCOMES, Phase
from sage_inference.gateway.tracing.request_trace import RequestTrace, WithTrace
from sage_inference.telemetry.tracing.context import SAMPLED, new_span_id
from sage_inference.telemetry.tracing.record import RequestSpan
from sage_inference.wire.isolation import report_of
from sage_inference.wire.message import ResponseHead

# No text has these marks, because JSON escapes the quotes of a text.
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_FINISH = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([a-z_]{1,40})"')
_LOOKED_AT = 2048  # bytes of an answer's start, and of its end
_MOST_REASONS = 16

_DONE, _QUEUED = Phase.DONE, Phase.QUEUED


class PassingExchange(Exchange):
    """An exchange that is not sampled. Its engines get a trace context, and nothing of it is recorded."""

    __slots__ = ("trace",)

    trace: RequestTrace

    def _send(self, connection: EngineConnection) -> None:
        super()._send(WithTrace(connection, self.trace.ids, new_span_id()))  # type: ignore[arg-type]


class TracedExchange(PassingExchange):
    """An exchange that is sampled. Its engines get a trace context, and its record is made when it ends."""

    __slots__ = ()

    # Its way to an engine

    def _connect(self) -> None:
        self._open()
        super()._connect()

    def _send(self, connection: EngineConnection) -> None:
        marked = WithTrace(connection, self.trace.ids, self._open())
        super(PassingExchange, self)._send(marked)  # type: ignore[arg-type]

    def _open(self) -> int:
        """The id of the span of the attempt that is made now."""
        path = self.head.route.engine_path or self.head.route.path
        return self.trace.open(self.attempt, self.queued_at, path, waited=self.phase is _QUEUED).span_id

    # The answer, and failures

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        if self.trace.attempt is not None:
            self.trace.attempt.status = answer.status
        super().engine_answers(answer, length)

    def engine_failed(self, how: Broken, detail: str) -> None:
        self._note(how.name.lower())
        super().engine_failed(how, detail)

    def not_connected(self, error: OSError) -> None:
        self._note("refused")
        super().not_connected(error)

    def timed_out(self) -> None:
        self._note("timeout")
        super().timed_out()

    def engine_is_silent(self) -> None:
        attempt = self.trace.attempt
        self._note("silent")
        super().engine_is_silent()
        if attempt is not None and self.trace.attempt is attempt:  # it was not given up
            attempt.error = None

    def _note(self, error: str) -> None:
        if self.trace.attempt is not None:
            self.trace.attempt.error = error

    def fail(self, error: ApiError) -> None:
        self.trace.error = error.code or error.type
        super().fail(error)

    def _cut(self, error: ApiError) -> None:
        self.trace.error = error.code or error.type
        super()._cut(error)

    # The end of an attempt, or of the request

    def _account(self, left: Phase, to: Phase, effect: int) -> None:
        trace = self.trace
        end = bytes(self.last) if to is _DONE and self.last else b""
        placement = self.place if isinstance(self.place, Placement) else None
        was_open = trace.attempt is not None
        super()._account(left, to, effect)
        try:
            now = self.gateway.clock()
            trace.close(now, placement)
            if effect & ENDS:
                record = self._record(to, now, end)
                if left is _QUEUED and not was_open:
                    self._note_queue(record, now)
                assert self.gateway.tracer is not None
                self.gateway.tracer.add(record)
        except Exception as error:  # the answer is written, and a trace must not harm the next request
            report_of(self.caller_id, error, self.request_id)

    def _record(self, to: Phase, now: float, end: bytes) -> RequestSpan:
        trace, head = self.trace, self.head
        last = trace.attempts[-1].placement if trace.attempts else None
        status = self.status if self.is_answered and to is not Phase.CANCELLED else 0
        error = trace.error or (str(status) if status >= 400 else None)
        instance = self.instance
        record = RequestSpan(
            trace.ids,
            head.route,
            trace.began_at,
            now,
            status,
            OUTCOMES[to],
            getattr(self, "request", None),
            head.tenant,
            self.caller_id.decode("latin-1"),
            trace.attempts,
            served=instance,
            error="cancelled" if to is Phase.CANCELLED else error,
            usage=None if last is None else last.usage,
            texts=self.texts,
            first_byte_at=self.answered_at if last is None else last.answered_at,
        )
        if status < 400:
            record.input_tokens = None if head.route.type.is_llm else self.counted_tokens
            self._read(record, end)
        return record

    def _read(self, record: RequestSpan, end: bytes) -> None:
        """Note the names in the answer's end. ``end`` is empty for an answer that the gateway wrote itself."""
        if not end:
            record.model = getattr(self, "model_name", None)
            return
        near = end if len(end) <= 2 * _LOOKED_AT else end[:_LOOKED_AT] + b"\n" + end[-_LOOKED_AT:]
        if found := _MODEL.search(near):
            record.model = found[1].decode("utf-8", "replace")
        if self.route.type.is_llm:
            record.finish_reasons = [each.decode() for each in _FINISH.findall(near)[:_MOST_REASONS]]

    def _note_queue(self, record: RequestSpan, now: float) -> None:
        """Note the wait that no attempt of its own ended: until it gave up, or until calls took its texts."""
        since = self.queued_at if self.trace.queued_at is None else self.trace.queued_at
        if getattr(self, "_sent", False):
            if self.waited_ms > 0:
                record.queued_at, record.queued_until = since, since + self.waited_ms / 1000
        else:
            record.queued_at, record.queued_until = since, now


_made: dict[type[Exchange], tuple[type[PassingExchange], type[TracedExchange]]] = {
    Exchange: (PassingExchange, TracedExchange)
}


def traced(base: type[Exchange]) -> Callable[..., Exchange]:
    """Makes exchanges like ``base``, from the same arguments, that are traced if they are sampled."""
    if base not in _made:
        _made[base] = (
            type(f"Passing{base.__name__}", (PassingExchange, base), {"__slots__": ()}),
            type(f"Traced{base.__name__}", (TracedExchange, base), {"__slots__": ()}),
        )
    passing, sampled = _made[base]

    def make(*arguments: Any) -> Exchange:
        gateway, head = arguments[-2:]
        ids = gateway.tracer.ids(head.trace)
        exchange: PassingExchange
        if ids.flags & SAMPLED:
            exchange = sampled(*arguments)
            exchange.trace = RequestTrace(ids, gateway.clock())
        else:
            exchange = passing(*arguments)
            exchange.trace = RequestTrace(ids)
        return exchange

    return make
