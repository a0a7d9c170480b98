"""The duties of pid 1 in a container: adopt orphans and pass signals on.

The gateway runs in a child. As pid 1 it would have to wait for any child, which takes the exit statuses of engines
away from the event loop, and the kernel would ignore signals without a handler.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

# The terminal sends these to the whole group, so the child has them already.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH)
_FROM_KERNEL = 0x80  # SI_KERNEL
# Signals of our own faults cannot be waited for. A terminal's job control belongs to its shell.
_KEPT = (signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP)
_IGNORED = (signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE)


def needed() -> bool:
    """True for the first process of a container or another pid namespace."""
    return os.getpid() == 1 and hasattr(signal, "sigwaitinfo")


def stand_in() -> None:
    """Return in a child, which continues the program. Pid 1 waits here for its end, and exits with its status."""
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
    """Reap orphans until ``child`` ends. Returns its exit status."""
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
    """Reap all processes that have ended. Returns the wait status of ``child`` if it is among them."""
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
