"""The meaning of SIGHUP: the terminal of a gateway in the foreground was closed, or a reload is wanted."""

from __future__ import annotations

import errno
import os
import signal

_LOST_FOR_GOOD = 3  # looks


class TerminalHangup:
    """One run's terminal. A background process has none, so SIGHUP always reloads it."""

    def __init__(self, *, background: bool) -> None:
        # ``nohup``: the user decided that SIGHUP has no effect.
        self.ignored: bool = not background and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._has_terminal = not background and _terminal_exists()
        self._gone = 0

    def terminal_is_gone(self) -> bool:
        """True if the terminal that the gateway was started on does not exist any more."""
        return self._has_terminal and not _terminal_exists()

    def look(self) -> None:
        """Check the terminal. Call this once a second.

        A gateway that got no SIGHUP when its terminal was closed (``disown``, ``setsid``) runs on without it.
        A later SIGHUP comes from a user, and reloads.
        """
        if self._has_terminal:
            self._gone = self._gone + 1 if self.terminal_is_gone() else 0
            if self._gone >= _LOST_FOR_GOOD:
                self._has_terminal = False


def _terminal_exists() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        # A lack of descriptors does not mean that the terminal was closed.
        return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return True
