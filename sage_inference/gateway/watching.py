"""The decision record of this gateway: fed by its manager and relay, kept in memory and, if told so, in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sage_inference.control_plane.load import Placement
from sage_inference.control_plane.ticket import Ticket
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.pair import PairedExchange
from sage_inference.gateway.relay.phase import Phase
from sage_inference.telemetry.decision_document import document
from sage_inference.telemetry.decision_file import DecisionFile
from sage_inference.telemetry.decisions import DecisionLog
from sage_inference.types import Usage

_NAMES = {Phase.DONE: "done", Phase.CUT: "cut", Phase.CANCELLED: "cancelled", Phase.QUEUED: "retried"}
_OUTCOMES = tuple(_NAMES.get(phase, "ended") for phase in Phase)


class Watcher(DecisionLog):
    """The manager's observer."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = time.time() - time.monotonic()
        self._file: DecisionFile | None = None

    def ended(self, ticket: Ticket, placement: Placement, usage: Usage | None, now: float) -> None:
        if placement.record is None:
            return
        if isinstance(ticket, Exchange):
            outcome, status = _OUTCOMES[ticket.phase], ticket.status
            if outcome == "retried" and isinstance(ticket, PairedExchange) and ticket.handing_over:
                outcome = "prefilled"
        else:  # work of the gateway's own, such as many callers' texts in one call
            outcome, status = "ended", 0
        self.close(placement.record, placement.answered_at, now, outcome, status, usage)

    def documents(self, request_id: str) -> list[dict[str, Any]]:
        """A request's attempts, as far as they are still kept."""
        return [document(attempt, self._epoch) for attempt in self.of(request_id)]

    def record_to(self, path: str | None) -> None:
        """Write attempts to this file from now on, or to none."""
        wanted = None if path is None else Path(path).expanduser()
        if self._file is not None and self._file.path == wanted:
            return
        self.write()
        self._file = None if wanted is None else DecisionFile(wanted, self._epoch)
        self.on_end = None if self._file is None else self._file.add

    def write(self) -> None:
        if self._file is not None:
            self._file.write()
