"""What the relay counts: plain integers on the hot path, read when someone asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_inference.gateway.relay.phase import Phase

if TYPE_CHECKING:
    from sage_inference.gateway.relay.exchange import Exchange


class Stats:
    """Totals since the start. ``outcomes`` is keyed by (route, status); 0 is a caller that left first."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, int], int] = {}
        self.cancelled = 0
        self.cut = 0

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    def ended(self, exchange: Exchange, phase: Phase) -> None:
        status = exchange.status
        if phase is Phase.CANCELLED:
            self.cancelled += 1
            status = 0
        elif phase is Phase.CUT:
            self.cut += 1
        key = (exchange.route.path, status)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
