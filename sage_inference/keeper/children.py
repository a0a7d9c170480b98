"""Ends the processes that descend from this one, and no others.

This process is a subreaper, so the children of a killed child become its own. Only own children are signalled, and
each before it is waited for: until then the system cannot use its pid again. Parents end before their children, so that
none can start a killed one again. Process groups and sessions play no part.
"""

from __future__ import annotations

import os
import signal

from sage_inference.keeper.linux import command_line, own_children

# Python's helper process removes the shared memory of its dead parents, and then ends by itself.
_TRACKER = b"multiprocessing.resource_tracker"


class Ending:
    """The kill of all children, in rounds until none is left. Each is killed once."""

    def __init__(self) -> None:
        self._killed: set[int] = set()

    def round(self, spare_trackers: bool) -> None:
        """Kill the present children. With ``spare_trackers``, those that only tidy up are left for a while."""
        for pid in own_children():
            if pid in self._killed or (spare_trackers and _TRACKER in command_line(pid)):
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except (PermissionError, ProcessLookupError):  # it runs as another user
                pass
            self._killed.add(pid)

    def forget(self, pid: int) -> None:
        """``pid`` was waited for: a new process may get it."""
        self._killed.discard(pid)


def reap() -> tuple[dict[int, int], bool]:
    """The wait statuses of the children that have ended, by pid, and whether there are others."""
    found: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found, False
        if pid == 0:
            return found, True
        found[pid] = status
