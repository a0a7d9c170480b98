"""The trace of a request while it runs: its ids, the attempt that is open, and those that ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_inference.control_plane.instances.load import Placement
from sage_inference.telemetry.tracing.context import header_lines, new_span_id
from sage_inference.telemetry.tracing.record import AttemptSpan, TraceIds

if TYPE_CHECKING:
    from sage_inference.engines.connection import EngineConnection
    from sage_inference.engines.receiver import Receiver
    from sage_inference.gateway.relay.attempt import Attempt
    from sage_inference.wire.message import Data


class RequestTrace:
    """``queued_at`` is when the last attempt ended, None before. ``error`` is the code of the caller's error."""

    __slots__ = ("attempt", "attempts", "began_at", "error", "ids", "queued_at")

    def __init__(self, ids: TraceIds, now: float) -> None:
        self.ids = ids
        self.began_at = now
        self.attempt: AttemptSpan | None = None
        self.attempts: list[AttemptSpan] = []
        self.error: str | None = None
        self.queued_at: float | None = None

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
            self.attempts.append(attempt)
            self.queued_at = now


class WithTrace:
    """A connection that sends one message with the lines of a trace context in its head."""

    __slots__ = ("_connection", "_ids", "_span_id")

    def __init__(self, connection: EngineConnection, ids: TraceIds, span_id: int) -> None:
        self._connection = connection
        self._ids = ids
        self._span_id = span_id

    def send(self, receiver: Receiver, head: bytes, body: Data) -> None:
        ids = self._ids
        lines = header_lines(ids.trace_id, self._span_id, ids.flags, ids.state)
        self._connection.send(receiver, b"%b%b\r\n" % (head[:-2], lines), body)  # type: ignore[arg-type]
