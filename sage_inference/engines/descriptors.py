"""The open files that the system grants, shared between callers and connections to engines."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable

from sage_inference.engines.lack import LackError, lack, open_files_limit

log = logging.getLogger("sage_inference.descriptors")

KEPT = 16  # open files for /admin, probes, the log and the resolver, whatever callers do
CALLERS_SHARE = 0.75  # of the rest; connections to engines may take all that callers leave
# With more connections, our own files are not counted again, because listing them takes milliseconds.
FEW = 256
_REPORT_S = 10.0
_OWN = 16  # files of the process itself, until they are counted


class Descriptors:
    """The budget of one process. ``callers`` returns the number of callers' connections.

    ``make_room`` closes one idle connection, and returns whether there was one.
    """

    def __init__(
        self,
        callers: Callable[[], int] = lambda: 0,
        make_room: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._callers = callers
        self.make_room = make_room
        self._clock = clock
        self.to_engines = 0  # connections, made or being made
        self._own = _OWN
        self._reported_at = -_REPORT_S
        self.granted = 0
        self.renew()

    def renew(self) -> None:
        """Ask the system for its limit again, which can be changed for a running process."""
        self.granted = open_files_limit()
        connections = self._callers() + self.to_engines
        if connections < FEW and (opened := _open_files()) is not None:
            # It falls slowly, because files that happen to be closed now will be opened again.
            self._own = max(1, self._own - 1, opened - connections)

    @property
    def shared(self) -> int:
        """The open files that callers and connections to engines share."""
        return max(4, self.granted - self._own - KEPT)

    @property
    def most_callers(self) -> int:
        shared = self.shared
        return max(2, min(int(shared * CALLERS_SHARE), shared - self.to_engines))

    @property
    def left(self) -> int:
        """The number of connections to engines that may be made now."""
        return self.shared - self._callers() - self.to_engines

    def shortage(self) -> LackError | None:
        """The reason for which no connection to an engine may be made now, or None if one may."""
        return lack(OSError(errno.EMFILE, "")) if self.left <= 0 else None

    def report(self, what: str) -> None:
        """Log a lack, at most once in ``_REPORT_S`` seconds."""
        now = self._clock()
        if now - self._reported_at >= _REPORT_S:
            self._reported_at = now
            log.warning("%s", what)


def _open_files() -> int | None:
    """The number of open files of this process; None if they cannot be listed, such as when no more can be opened."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # noqa: PTH208 - the listing itself opens one of them
    except OSError:
        return None
