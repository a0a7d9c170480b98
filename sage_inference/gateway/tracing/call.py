"""Embedding calls that are traced: one engine call serves several requests, so one span is linked to all of them."""

from __future__ import annotations

from typing import Any, cast

from sage_inference.control_plane.embedding import EmbeddingBatch
from sage_inference.control_plane.embedding.merge_queue import MergeQueue
from sage_inference.control_plane.instances.load import Placement
from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.receiver import Broken
from sage_inference.gateway.embeddings.call import EmbeddingCall
from sage_inference.gateway.embeddings.call_listener import CallListener
from sage_inference.gateway.embeddings.caller import EmbeddingCaller
from sage_inference.gateway.relay.attempt import Attempt
from sage_inference.gateway.tracing.exchange import PassingExchange
from sage_inference.gateway.tracing.request_trace import WithTrace
from sage_inference.telemetry.tracing.context import new_span_id
from sage_inference.telemetry.tracing.record import AttemptSpan, CallSpan, TraceIds
from sage_inference.wire.isolation import report_of


class TracedCall(EmbeddingCall):
    """``span`` is that of the attempt that runs, in the trace of the request ``owner``.

    ``concerned`` are the spans of the requests with a text in the call, those that joined later included.
    """

    __slots__ = ("concerned", "owner", "span")

    def __init__(
        self, service: CallListener[Any], merge_queue: MergeQueue, batch: EmbeddingBatch | None = None
    ) -> None:
        super().__init__(service, merge_queue, batch)
        self.span: AttemptSpan | None = None
        self.owner: TraceIds | None = None
        self.concerned: dict[int, TraceIds] = {}  # by the ids of their spans

    def connected(self, connection: EngineConnection) -> None:
        if self.span is None:
            self._open()
        assert self.owner is not None
        assert self.span is not None
        self.span.status = self.span.error = None
        marked = cast(EngineConnection, WithTrace(connection, self.owner, self.span.span_id))
        try:
            super().connected(marked)
        finally:
            if self.attempt is not None and self.attempt.connection is marked:
                self.attempt.connection = connection

    def _open(self) -> None:
        """Begin the span, in the trace of a request that is sampled, if there is one."""
        assert self.batch is not None
        self._note_concerned(self.batch)
        of_all = list(self.concerned.values())
        self.owner = next((ids for ids in of_all if ids.is_sampled), of_all[0])
        self.span = self._span_of(self.attempt)

    def _span_of(self, attempt: Attempt) -> AttemptSpan:
        began = attempt.sent_at or self.service.gateway.clock()
        return AttemptSpan(new_span_id(), began, began, False, attempt.instance, self.merge_queue.route)

    def _note_concerned(self, batch: EmbeddingBatch) -> None:
        for caller in self.service.callers(batch):
            ids = _trace_of(caller).ids
            self.concerned[ids.span_id] = ids

    def take_from(self, caller: EmbeddingCaller) -> None:
        trace = _trace_of(caller)
        # A request that is not sampled has no span of its attempt, but those who join may be sampled.
        self.span, trace.attempt = trace.attempt or self._span_of(caller.attempt), None
        self.owner = trace.ids
        self.concerned = {trace.ids.span_id: trace.ids}
        super().take_from(caller)

    def _transfer(self, caller: EmbeddingCaller, piece: Any, end: bool) -> None:
        trace = _trace_of(caller)
        if trace.ids.is_sampled:
            trace.attempt = self.span
            if self.span is not None and self.attempt.answer is not None:
                self.span.status = self.attempt.answer.status
        self.span = None
        super()._transfer(caller, piece, end)

    def engine_failed(self, how: Broken, detail: str) -> None:
        self._note(how.name.lower())
        super().engine_failed(how, detail)

    def not_connected(self, error: OSError) -> None:
        if self.span is None:
            self._open()
        self._note("refused")
        super().not_connected(error)

    def timed_out(self) -> None:
        self._note("timeout")
        super().timed_out()

    def _leave_silent(self) -> None:
        self._note("silent")
        super()._leave_silent()
        self._note(None)

    def _note(self, error: str | None) -> None:
        if self.span is not None:
            self.span.error = error

    def _end(self) -> None:
        placement = self.place
        span, self.span = self.span, None
        super()._end()
        if span is None or self.batch is None:
            return
        try:
            span.placement = placement if isinstance(placement, Placement) else None
            if self.attempt is not None and self.attempt.answer is not None:
                span.status = self.attempt.answer.status
            self._add(span, self.batch)
        except Exception as error:
            report_of(self.request_id, error)

    def _add(self, span: AttemptSpan, batch: EmbeddingBatch) -> None:
        gateway, owner = self.service.gateway, self.owner
        assert gateway.tracer is not None
        assert owner is not None
        span.ended_at = gateway.clock()
        self._note_concerned(batch)
        concerned, self.concerned = list(self.concerned.values()), {}
        if any(ids.is_sampled for ids in concerned):
            gateway.tracer.add(CallSpan(owner, concerned, span, self.merge_queue.model, len(batch)))


def _trace_of(caller: EmbeddingCaller) -> Any:
    return cast(PassingExchange, caller).trace
