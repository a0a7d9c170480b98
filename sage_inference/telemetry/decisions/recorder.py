"""The decision record of this gateway: filled by its scheduler, kept in memory and, if configured, in a file."""

from __future__ import annotations

import time
from typing import Any

from sage_inference.config.errors import ConfigError
from sage_inference.config.paths import expanded
from sage_inference.control_plane.scheduler import Scheduler
from sage_inference.telemetry.decisions.document import document
from sage_inference.telemetry.decisions.file import DecisionFile
from sage_inference.telemetry.decisions.log import DecisionLog


class Watcher(DecisionLog):
    """Watches one scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler
        scheduler.watch(self.add)
        self._file: DecisionFile | None = None

    def documents(self, request_id: str) -> list[dict[str, Any]]:
        """The attempts of a request that are still kept."""
        epoch = wall_offset()
        policy = self._scheduler.policy_name
        return [document(attempt, epoch, policy(attempt.request)) for attempt in self.of(request_id)]

    def file_at(self, path: str | None) -> DecisionFile | None:
        """A file for ``record_to``, opened for writing. Raises ``ConfigError`` if it cannot be written."""
        if path is None:
            return None
        try:
            wanted = expanded(path)
            file = self._file
            if file is None or file.path != wanted:
                file = DecisionFile(wanted, wall_offset, self._scheduler.policy_name)
            file.touch()
        except OSError as error:
            problem = f"scheduling.record_file {path} cannot be written: {error.strerror}"
            raise ConfigError(problem, key="scheduling.record_file") from None
        return file

    def record_to(self, file: DecisionFile | None) -> None:
        """Write attempts that end to this file from now on, or to none."""
        if file is self._file:
            return
        self.write()
        self._file = file
        self._scheduler.watch(self.add, None if file is None else file.add)

    @property
    def unwritten(self) -> bool:
        return self._file is not None and bool(self._file.buffered)

    def write(self) -> None:
        if self._file is not None:
            self._file.write()


def wall_offset() -> float:
    """The wall clock's time at 0 of the scheduler's clock. It changes when the clock is set, and after a suspend."""
    return time.time() - time.monotonic()
