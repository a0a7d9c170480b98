"""One request and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sage_inference.bench.answer import Plain, Reading, Refused, Streamed

TIMEOUT = "timeout"  # an error: no complete answer within the timeout
NO_CALLER = -1  # of a request in an open loop


class Kind(StrEnum):
    """Kinds of requests."""

    CHAT = "chat"
    STREAM = "stream"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request, ready to be written."""

    kind: Kind
    request: bytes


class TimedExchange:
    """A request and its outcome. Moments are of ``time.monotonic``.

    Latency counts from ``due``, the moment at which the request should have left. So it includes the time in which the
    generator or a slow server held the request back. Otherwise this time would be missing from the figures just when
    the server stalls (coordinated omission).
    """

    __slots__ = ("caller", "detail", "due", "ended", "error", "kind", "reading", "request", "sent")

    def __init__(self, prepared: PreparedRequest, due: float, caller: int = NO_CALLER) -> None:
        self.caller = caller  # in a closed loop, where each sends its next request after this one
        self.kind = prepared.kind
        self.request = prepared.request
        self.due = due
        self.sent: float | None = None  # None while it waits for a connection
        self.ended = 0.0
        self.error: str | None = None
        self.detail = ""
        self.reading: Reading = _reading(prepared.kind)

    def begins(self, status: int) -> None:
        if status != 200:
            self.reading = Refused(status)

    def answered(self, now: float) -> None:
        """Note the end of the answer, according to its framing."""
        fault = self.reading.fault()
        if fault is not None:
            self.error, self.detail = fault
        self.ended = now

    def failed(self, error: str, detail: str, now: float) -> None:
        self.error, self.detail, self.ended = error, detail, now


def _reading(kind: Kind) -> Reading:
    if kind is Kind.STREAM:
        return Streamed()
    return Plain(b"choices" if kind is Kind.CHAT else b"embedding")
