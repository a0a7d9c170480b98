"""The trace of a request while it runs: its ids, the attempt that is open, and those that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sage_inference.control_plane.instances.load import Placement
from sage_inference.telemetry.tracing.context import header_lines, new_span_id
from sage_inference.telemetry.tracing.record import AttemptSpan, TraceIds

if TYPE_CHECKING:
    from sage_inference.engines.receiver import Receiver
    from sage_inference.gateway.relay.attempt import Attempt
    from sage_inference.wire.message import Data


class RequestTrace(msgspec.Struct, gc=False, eq=False):
    """``queued_at`` is when the last attempt ended, None before. ``error`` is the code of the caller's error.

    Of a request that is not sampled only the ids are used. It is a struct because every request has one.
    """

    ids: TraceIds
    began_at: float = 0.0
    attempt: AttemptSpan | None = None
    attempts: tuple[AttemptSpan, ...] = ()
    error: str | None = None
    queued_at: float | None = None

    def open(self, attempt: Attempt, queued_at: float, path: str, *, waited: bool) -> AttemptSpan:
        """The span of ``attempt``. A message that is sent again, because its connection was stale, has the same span."""
        found = self.attempt
        if found is None:
            since = queued_at if self.queued_at is None else self.queued_at
            found = self.attempt = AttemptSpan(
                new_span_id(), since, attempt.sent_at, waited, attempt.instance, path
            )
        found.status = found.error = None
        return found

    def close(self, now: float, placement: Placement | None) -> None:
        """End the attempt that is open, if one is."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.ended_at, attempt.placement = now, placement
            self.attempts += (attempt,)
            self.queued_at = now


class WithTrace(msgspec.Struct, gc=False, eq=False):
    """A connection that sends one message with the lines of a trace context in its head."""

    connection: Any  # an ``EngineConnection``
    ids: TraceIds
    span_id: int

    def send(self, receiver: Receiver, head: bytes, body: Data) -> None:
        ids = self.ids
        lines = header_lines(ids.trace_id, self.span_id, ids.flags, ids.state)
        self.connection.send(receiver, head[:-2] + lines + b"\r\n", body)
