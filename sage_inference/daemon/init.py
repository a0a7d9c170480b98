"""The duties of pid 1 in a container: adopt orphans and pass signals on.

The gateway runs in a child. A pid 1 that waited for any child itself would take the exit statuses of engines
away from the event loop, and signals that it does not handle would be ignored.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

# The terminal sends these to the whole group, so the child has them already.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH)
_FROM_KERNEL = 0x80  # SI_KERNEL
# Our own faults cannot be waited for; the job control of a terminal is not ours.
_KEPT = (signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP)
_IGNORED = (signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE)


def needed() -> bool:
    """True for the first process of a container or another pid namespace."""
    return os.getpid() == 1 and hasattr(signal, "sigwaitinfo")


def stand_in() -> None:
    """Return in a child, which runs on as the program did. Pid 1 stays here until it has ended, and exits as it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    watched = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *_KEPT, *_IGNORED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_attend(child, watched))


def _attend(child: int, watched: set[Any]) -> int:
    """The exit status of ``child``; orphans are reaped until it ends."""
    while True:
        caught = signal.sigwaitinfo(watched)
        if caught.si_signo != signal.SIGCHLD:
            from_terminal = caught.si_code == _FROM_KERNEL and caught.si_signo in _FROM_TERMINAL
            if not from_terminal:
                os.kill(child, caught.si_signo)
            continue
        status = _reap(child)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap(child: int) -> int | None:
    """Reap all that have ended. The wait status of ``child`` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status
