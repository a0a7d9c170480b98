"""A process by pid and start time, because the system uses pids again."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

# Two readings for one process are equal to the clock tick on Linux, elsewhere to psutil's rounding.
_SAME_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """A process. ``create_time`` is as in ``create_time()``."""

    pid: int
    create_time: float

    @classmethod
    def current(cls) -> Process:
        found = create_time(os.getpid())
        if found is None:
            raise ProcessLookupError(f"the system does not report when pid {os.getpid()} was started")
        return cls(os.getpid(), found)

    @property
    def alive(self) -> bool:
        """True while this process exists. A zombie does not count."""
        now = create_time(self.pid)
        return now is not None and abs(now - self.create_time) < _SAME_S

    @property
    def suspended(self) -> bool:
        """True if SIGSTOP or a debugger halted the process."""
        return self.alive and _state(self.pid) in ("T", "t", "stopped")

    def send(self, number: signal.Signals) -> bool:
        """Signal this process, never another that has its pid now. False if it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except AttributeError:  # not Linux
            return self._kill(number)
        except OSError:
            # The process is gone, or the kernel has no pidfd. ``_kill`` finds out which.
            return self._kill(number)
        try:
            # The handle is of the process that has the pid now. Check it after opening, because the pid cannot be used
            # again while the handle is open.
            if not self.alive:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def _kill(self, number: signal.Signals) -> bool:
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def create_time(pid: int) -> float | None:
    """When the process was started. None if it does not exist or is a zombie.

    On Linux in seconds since boot, because wall-clock times of old processes move when the clock is set.
    Elsewhere in seconds since the epoch. Comparable on one machine only.
    """
    if pid <= 0:
        return None
    fields = _stat(pid)
    if fields is not None:
        return None if fields[0] in ("Z", "X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    if _HAS_PROC:
        return None
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


_HAS_PROC = Path("/proc/self/stat").exists()


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the third on (its state)."""
    if not _HAS_PROC:
        return None
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may have spaces and brackets itself.
    return raw[raw.rindex(b")") + 2 :].decode("ascii").split()


def _state(pid: int) -> str | None:
    fields = _stat(pid)
    if fields is not None:
        return fields[0]
    if _HAS_PROC:
        return None
    import psutil

    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return None
