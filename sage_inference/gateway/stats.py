"""Counters of the relay. They are plain integers on the hot path, and are read on request."""

from __future__ import annotations

from sage_inference.gateway.access_log import AccessLog, EndedRequest
from sage_inference.gateway.relay.phase import Phase
from sage_inference.telemetry.exposition import Histogram

_DONE = Phase.DONE  # as a global: an enum's members are looked up by a Python call
_WAITS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class Stats:
    """Totals since the start. ``outcomes`` is keyed by (route, status). Status 0 is a caller that left first.

    ``engine_failures``: answers that came to their end and report that the engine gave them up.
    ``handed_over``: prompts whose blocks went from a prefilling to a decoding instance. ``handover_failures``:
    requests that were to be split into two legs, and then went to one instance.
    """

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, int], int] = {}
        self.cancelled = 0
        self.cut = 0
        self.engine_failures = 0
        self.handed_over = self.handover_failures = 0
        self.waits = Histogram(_WAITS)
        self.access: AccessLog | None = None

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def ended(self, exchange: EndedRequest, phase: Phase, outcome: str) -> None:
        status = exchange.status
        if phase is not _DONE:
            if phase is Phase.CANCELLED:
                self.cancelled += 1
                status = 0
            else:
                self.cut += 1
        outcomes, key = self.outcomes, (exchange.head.route.path, status)
        try:
            outcomes[key] += 1
        except KeyError:
            outcomes[key] = 1
        if self.access is not None:
            self.access.ended(exchange, outcome)
