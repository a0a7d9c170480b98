"""Makes the spans of a record, by OpenTelemetry's semantic conventions for HTTP and for generative AI.

The request's span is the operation on a model as its caller sees it, with all retries: it alone has the tokens, so sums
over spans count them once. Below it are the waits, the decisions and the attempts. The module loads the SDK, so it is
imported only where requests are traced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from sage_inference._version import __version__
from sage_inference.control_plane.instances.load import Placement
from sage_inference.control_plane.instances.prefill_decode import leg_of
from sage_inference.telemetry.decisions.document import outcome_of, predicted
from sage_inference.telemetry.tracing.context import TraceContext, new_span_id
from sage_inference.telemetry.tracing.record import AttemptSpan, CallSpan, Record, RequestSpan, TraceIds
from sage_inference.types import ExecutionInstance, RequestType

Facts = dict[str, Any]

SCOPE = InstrumentationScope("sage_inference", __version__)
_OPERATIONS = {
    RequestType.LLM_CHAT: "chat",
    RequestType.RESPONSES: "chat",
    RequestType.MESSAGES: "chat",
    RequestType.LLM_GENERATE: "text_completion",
    RequestType.EMBEDDING: "embeddings",
}
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_QUEUE_FIRST_MS = 1.0  # a shorter wait is part of the decision
_NO_STATE = TraceState()


class SpanMaker:
    """``epoch_ns`` is the wall clock's time, in nanoseconds, when the scheduler's clock was 0."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self.epoch_ns = 0

    def spans(self, record: Record) -> Iterator[ReadableSpan]:
        if isinstance(record, CallSpan):
            yield from self._of_call(record)
        else:
            yield from self._of_request(record)

    # Of a request

    def _of_request(self, record: RequestSpan) -> Iterator[ReadableSpan]:
        own = _context(record.ids, record.ids.span_id)
        resent = 0
        for attempt in record.attempts:
            yield from self._before(own, attempt)
            yield self._attempt(own, record, attempt, resent)
            # The second leg of a split request, and the next call of a rerank, are none.
            resent += attempt.placement is None or outcome_of(attempt.placement) == "retried"
        if record.queued_at is not None:
            yield self._child(own, "queue", record.queued_at, record.queued_until, {})
        name, facts = _operation(record)
        yield self._span(
            name,
            own,
            _parent(record.ids.parent),
            SpanKind.SERVER,
            record.began_at,
            record.ended_at,
            facts | _outcome_facts(record),
            # An error of the caller's is none of a server's, by the conventions for HTTP.
            _FAILED if record.status >= 500 or record.outcome == "cut" else _UNSET,
            events=self._first_byte(record.first_byte_at),
        )

    def _before(self, own: SpanContext, attempt: AttemptSpan) -> Iterator[ReadableSpan]:
        """The wait for a slot, if there was one, and the decision."""
        decided_from, placement = attempt.queued_at, attempt.placement
        if placement is not None and attempt.waited:
            pushed = min(placement.pushed_at, attempt.began_at)
            if (pushed - attempt.queued_at) * 1000 >= _QUEUE_FIRST_MS:
                yield self._child(own, "queue", attempt.queued_at, pushed, {})
                decided_from = pushed
        yield self._child(own, "decision", decided_from, attempt.began_at, _decision_facts(placement))

    def _attempt(
        self, own: SpanContext, record: RequestSpan, attempt: AttemptSpan, resent: int
    ) -> ReadableSpan:
        facts = _attempt_facts(attempt, record.route.method)
        if resent:
            facts["http.request.resend_count"] = resent
        failed = "error.type" in facts and facts["error.type"] != "cancelled"
        context = SpanContext(own.trace_id, attempt.span_id, False, own.trace_flags, own.trace_state)
        return self._span(
            f"{record.route.method} {attempt.path}",
            context,
            own,
            SpanKind.CLIENT,
            attempt.began_at,
            attempt.ended_at,
            facts,
            _FAILED if failed else _UNSET,
            events=self._first_byte(None if attempt.placement is None else attempt.placement.answered_at),
        )

    # Of a call for texts of several requests

    def _of_call(self, record: CallSpan) -> Iterator[ReadableSpan]:
        attempt, owner = record.attempt, record.owner
        facts = _attempt_facts(attempt, "POST") | {
            "gen_ai.request.model": record.model,
            "sage.call.texts": record.texts,
            "sage.call.requests": len(record.callers),
        }
        status = _FAILED if "error.type" in facts else _UNSET
        call = _context(owner, attempt.span_id)
        for caller in record.callers:
            if not caller.is_sampled:
                continue
            of_owner, parent = caller is owner, _context(caller, caller.span_id)
            others = [_context(other, other.span_id) for other in record.callers if other is not owner]
            shared = [call] if owner.is_sampled else []
            yield self._span(
                f"POST {attempt.path}",
                call if of_owner else _context(caller, new_span_id()),
                parent,
                SpanKind.CLIENT,
                attempt.began_at,
                attempt.ended_at,
                facts,
                status,
                links=[Link(each) for each in (others if of_owner else shared)],
            )

    # Parts

    def _child(self, parent: SpanContext, name: str, start: float, end: float, facts: Facts) -> ReadableSpan:
        context = SpanContext(parent.trace_id, new_span_id(), False, parent.trace_flags, parent.trace_state)
        return self._span(name, context, parent, SpanKind.INTERNAL, start, end, facts, _UNSET)

    def _first_byte(self, at: float | None) -> list[Event]:
        return [] if at is None else [Event("first_byte", {}, self._ns(at))]

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start: float,
        end: float,
        facts: Facts,
        status: Status,
        *,
        events: list[Event] = [],  # noqa: B006  (never changed)
        links: list[Link] = [],  # noqa: B006
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            facts,
            events,
            links,
            kind,
            status=status,
            start_time=self._ns(start),
            end_time=self._ns(max(start, end)),
            instrumentation_scope=SCOPE,
        )

    def _ns(self, at: float) -> int:
        return self.epoch_ns + int(at * 1e9)


def _context(ids: TraceIds, span_id: int) -> SpanContext:
    return SpanContext(ids.trace_id, span_id, False, TraceFlags(ids.flags), _state(ids.state))


def _parent(parent: TraceContext | None) -> SpanContext | None:
    if parent is None:
        return None
    return SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(parent.flags), _state(parent.state))


def _state(state: bytes) -> TraceState:
    return TraceState.from_header([state.decode("latin-1")]) if state else _NO_STATE


def _operation(record: RequestSpan) -> tuple[str, Facts]:
    """The name of a request's span, and the facts of its operation."""
    request, route = record.request, record.route
    operation = _OPERATIONS.get(route.type, route.type.value)
    facts: Facts = {
        "gen_ai.operation.name": operation,
        "http.request.method": route.method,
        "http.route": route.path,
    }
    if record.served is not None:
        facts["gen_ai.provider.name"] = record.served.engine.value
    if request is None or not request.model:
        return operation, facts
    facts["gen_ai.request.model"] = request.model
    if route.type.is_llm:
        facts["gen_ai.request.stream"] = request.streams
        if request.choices > 1:
            facts["gen_ai.request.choice.count"] = request.choices
    # A name that no engine serves may be anything that callers send, and there would be no end of span names.
    return (f"{operation} {request.model}" if record.served is not None else operation), facts


def _outcome_facts(record: RequestSpan) -> Facts:
    facts: Facts = {
        "sage.request_id": record.caller_id,
        "sage.key": record.tenant or None,
        "sage.outcome": record.outcome,
        "http.response.status_code": record.status or None,
        "error.type": record.error,
        "gen_ai.response.model": record.model,
        "gen_ai.response.finish_reasons": record.finish_reasons or None,
        "sage.texts": record.texts or None,
        "gen_ai.usage.input_tokens": record.input_tokens,
    }
    if record.usage is not None:
        facts["gen_ai.usage.input_tokens"] = record.usage.prompt_tokens
        facts["gen_ai.usage.output_tokens"] = record.usage.completion_tokens
        facts["gen_ai.usage.cache_read.input_tokens"] = record.usage.cached_tokens
    if record.request is not None:
        facts["sage.priority"] = record.request.priority.name.lower()
        if record.request.streams and record.first_byte_at is not None:
            facts["gen_ai.response.time_to_first_chunk"] = record.first_byte_at - record.began_at
    return _known(facts)


def _decision_facts(placement: Placement | None) -> Facts:
    if placement is None:
        return {}
    expected = predicted(placement)
    return _known(
        {
            "sage.instance": placement.decision.target_instance_id,
            "sage.decision.reason": placement.decision.reason,
            "sage.decision.candidates": [seen[0].instance_id for seen in placement.seen] or None,
            "sage.decision.predicted_cost_ms": expected[0],
            "sage.decision.predicted_first_byte_ms": expected[1],
        }
    )


def _attempt_facts(attempt: AttemptSpan, method: str) -> Facts:
    placement = attempt.placement
    outcome = None if placement is None else outcome_of(placement)
    error = attempt.error
    if error is None and (attempt.status or 0) >= 400:
        error = str(attempt.status)
    if error is None and outcome not in (None, "done", "prefilled", "ended", "retried"):
        error = outcome
    return _known(
        {
            "sage.instance": attempt.instance.instance_id,
            "sage.leg": None if placement is None else leg_of(placement.request),
            "sage.outcome": outcome,
            "http.request.method": method,
            "http.response.status_code": attempt.status,
            "error.type": error,
            **_address(attempt.instance),
        }
    )


def _address(instance: ExecutionInstance) -> Facts:
    if instance.uds:
        return {"server.address": instance.uds, "network.transport": "unix"}
    return {"server.address": instance.host, "server.port": instance.port}


def _known(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
