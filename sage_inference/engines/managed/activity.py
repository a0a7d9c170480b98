"""The activity of an engine's processes, as the system sees it."""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# The functions import psutil, because most gateways watch no process, and it takes 1 MiB of memory.

# The processes of a hanging engine wake up now and then.
IDLE_CPU = 0.03  # of one core


class Activity(Enum):
    IDLE = auto()
    WORKS = auto()  # or may work: it waits for a disk, or its processes are not seen
    SUSPENDED = auto()  # by SIGSTOP
    DEBUGGED = auto()  # a debugger holds it


class ActivityMeter:
    """The activity of a process and its children between two looks, each of which may take some milliseconds."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._at = time.monotonic()
        self._cpu_s: float | None = None

    def look(self) -> Activity:
        """The activity since the last look. The first one sees work: there is nothing to compare with."""
        if self._pid is None:
            return Activity.WORKS
        import psutil

        held = {psutil.STATUS_TRACING_STOP: Activity.DEBUGGED, psutil.STATUS_STOPPED: Activity.SUSPENDED}
        now, before = time.monotonic(), self._cpu_s
        took, self._at = now - self._at, now
        processes = _tree(self._pid)
        self._cpu_s = seconds = _cpu_seconds(processes)
        states = [_state(process) for process in processes]
        for state, activity in held.items():
            if state in states:
                return activity
        if before is None or psutil.STATUS_DISK_SLEEP in states or seconds - before >= IDLE_CPU * took:
            return Activity.WORKS
        return Activity.IDLE


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children."""
    return _cpu_seconds(_tree(pid))


def _tree(pid: int) -> list[psutil.Process]:
    import psutil

    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    import psutil

    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def _state(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.status())
    except psutil.Error:
        return ""
