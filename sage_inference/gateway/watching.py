"""The decision record of this gateway: fed by its manager, kept in memory and, if told so, in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sage_inference.control_plane.manager import ControlPlaneManager
from sage_inference.telemetry.decision_document import document
from sage_inference.telemetry.decision_file import DecisionFile
from sage_inference.telemetry.decisions import DecisionLog


class Watcher(DecisionLog):
    """Watches one manager."""

    def __init__(self, manager: ControlPlaneManager) -> None:
        super().__init__()
        self._manager = manager
        manager.on_placed = self.add
        self._epoch = time.time() - time.monotonic()
        self._file: DecisionFile | None = None

    def documents(self, request_id: str) -> list[dict[str, Any]]:
        """A request's attempts, as far as they are still kept."""
        return [document(attempt, self._epoch) for attempt in self.of(request_id)]

    def record_to(self, path: str | None) -> None:
        """Write attempts that end to this file from now on, or to none."""
        wanted = None if path is None else Path(path).expanduser()
        if self._file is not None and self._file.path == wanted:
            return
        self.write()
        self._file = None if wanted is None else DecisionFile(wanted, self._epoch)
        self._manager.on_end = None if self._file is None else self._file.add

    @property
    def unwritten(self) -> bool:
        return self._file is not None and bool(self._file.held)

    def write(self) -> None:
        if self._file is not None:
            self._file.write()
