"""The record of a request from which its spans are made after its end. It has sizes, names and times, never a text.

Times are the scheduler's, in seconds. Ids are numbers, as the trace context has them.
"""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from sage_inference.control_plane.instances.load import Placement
from sage_inference.requests.routes import Route
from sage_inference.telemetry.tracing.context import SAMPLED, TraceContext
from sage_inference.types import ExecutionInstance, SchedulingRequest, Usage


class AttemptSpan(msgspec.Struct, gc=False, eq=False):
    """One attempt at an engine. ``queued_at`` is when the request entered the queue before it.

    ``error`` is how it failed, if no status shows that. ``placement`` is the scheduler's record of it.
    """

    span_id: int
    queued_at: float
    began_at: float
    waited: bool  # in the queue, and not only for its decision
    instance: ExecutionInstance
    path: str
    ended_at: float = 0.0
    status: int | None = None
    error: str | None = None
    placement: Placement | None = None


class TraceIds(msgspec.Struct, gc=False, eq=False, frozen=True):
    """The span of a request, and its parent."""

    trace_id: int
    span_id: int
    flags: int
    parent: TraceContext | None = None

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    @property
    def state(self) -> bytes:
        return self.parent.state if self.parent is not None else b""


class RequestSpan(msgspec.Struct, gc=False, eq=False):
    """A request that ended. ``status`` is its caller's, or 0 without an answer.

    ``queued_at`` is set if it was in the queue at its end, or waited there for the calls of its texts to
    ``queued_until``. ``outcome`` is ``done``, ``cut`` or ``cancelled``.
    """

    ids: TraceIds
    route: Route
    began_at: float
    ended_at: float
    status: int
    outcome: str
    request: SchedulingRequest | None
    tenant: str
    caller_id: str
    attempts: tuple[AttemptSpan, ...]
    served: ExecutionInstance | None = None
    error: str | None = None
    usage: Usage | None = None
    input_tokens: int | None = None
    texts: int = 0
    first_byte_at: float | None = None
    model: str | None = None
    finish_reasons: list[str] = []
    queued_at: float | None = None
    queued_until: float = 0.0


class CallSpan(msgspec.Struct, gc=False, eq=False):
    """One engine call for the texts of several requests. It is in the trace of the first; those of the others link to it.

    ``callers`` are the spans of the requests, each once, and at least one of them is sampled.
    """

    owner: TraceIds
    callers: list[TraceIds]
    attempt: AttemptSpan
    model: str
    texts: int


Record = RequestSpan | CallSpan


def spans_of(record: Record) -> int:
    """The number of spans that the record becomes, about: it counts those that are dropped."""
    if isinstance(record, CallSpan):
        return sum(caller.is_sampled for caller in record.callers)
    waits = sum(attempt.waited for attempt in record.attempts) + (record.queued_at is not None)
    return 1 + 2 * len(record.attempts) + waits


class QueuedRecord:
    """A record as the SDK's queue takes it: of a span, the queue reads only whether it is sampled."""

    __slots__ = ("record",)

    context = SimpleNamespace(trace_flags=SimpleNamespace(sampled=True))

    def __init__(self, record: Record) -> None:
        self.record = record
