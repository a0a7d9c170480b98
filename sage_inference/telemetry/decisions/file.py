"""A file of ended attempts, one JSON object a line, which replay reads. At its bound it becomes FILE.1."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from sage_inference.control_plane.instances.load import Placement
from sage_inference.telemetry.decisions.document import document
from sage_inference.types import SchedulingRequest

LARGEST = 256 << 20  # bytes; then the file becomes FILE.1, in place of the FILE.1 before
_MOST_BUFFERED = 65536  # attempts between two writes

log = logging.getLogger(__name__)


class DecisionFile:
    """``add`` buffers attempts, and ``write`` writes them, perhaps on another thread.

    A file that cannot be written is reported once.
    """

    def __init__(
        self,
        path: Path,
        epoch: Callable[[], float],
        policy: Callable[[SchedulingRequest], str],
        largest: int = LARGEST,
    ) -> None:
        self.path = path
        self._epoch = epoch
        self._policy = policy
        self._largest = largest
        self.buffered: deque[Placement] = deque(maxlen=_MOST_BUFFERED)
        self._failed = False

    def touch(self) -> None:
        """Create the file if it is missing. Raises ``OSError`` if it cannot be written."""
        with self._opened():
            pass

    def add(self, attempt: Placement) -> None:
        self.buffered.append(attempt)

    def write(self) -> None:
        """Append the attempts that were added since the last time."""
        if not self.buffered:
            return
        buffered, self.buffered = self.buffered, deque(maxlen=_MOST_BUFFERED)
        try:
            epoch = self._epoch()
            documents = [document(each, epoch, self._policy(each.request)) for each in buffered]
            self._append("".join([json.dumps(each) + "\n" for each in documents]))
        except OSError as error:
            if not self._failed:
                log.warning("decisions are not recorded: %s: %s", self.path, error.strerror)
            self._failed = True
        else:
            self._failed = False

    def _append(self, text: str) -> None:
        if self.path.exists() and self.path.stat().st_size + len(text) > self._largest:
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        with self._opened() as file:
            file.write(text)

    def _opened(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Only the owner may read the file, because it shows the work of each tenant. Without O_NONBLOCK a pipe without a
        # reader would stop the gateway.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        return os.fdopen(os.open(self.path, flags, 0o600), "a", encoding="utf-8")
