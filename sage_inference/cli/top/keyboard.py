"""The keyboard and the signals of a terminal. Its modes are put back however the program ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from sage_inference.cli.top.keys import KeyReader

try:
    import termios
    import tty
except ImportError:  # no such terminals on this system
    termios = tty = None  # type: ignore[assignment]

ENDS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_NOTED = (*ENDS, "SIGWINCH", "SIGTSTP", "SIGCONT")
_ESCAPE_S = 0.05  # a sequence of a key arrives within it
_PIECE = 1024


class Keyboard:
    """Reads keys without Enter, and notes signals, while its ``with`` block lasts.

    Without a terminal at stdin there are no keys, but the signals are noted.
    """

    def __init__(self) -> None:
        self._reader = KeyReader()
        self._signals: list[int] = []
        self._handlers: dict[int, Any] = {}
        self._stdin: int | None = None
        self._modes: list[Any] | None = None
        self._wakes: int = -1
        self._woken: int = -1

    def __enter__(self) -> Keyboard:
        self._woken, self._wakes = os.pipe()
        for descriptor in (self._woken, self._wakes):
            os.set_blocking(descriptor, False)
        try:
            self._take_signals()
            self._find_terminal()
            self.take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for descriptor in (self._woken, self._wakes):
            os.close(descriptor)
        self._woken = self._wakes = -1

    def _take_signals(self) -> None:
        for name in _NOTED:
            number = getattr(signal, name, None)
            # A signal that is ignored stays so: nohup ignores SIGHUP, and a shell without job control SIGTSTP.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        self.wake()

    def _find_terminal(self) -> None:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            descriptor = sys.stdin.fileno()
            if termios is not None and os.isatty(descriptor):
                self._stdin, self._modes = descriptor, termios.tcgetattr(descriptor)

    @property
    def has_keys(self) -> bool:
        return self._stdin is not None

    def take(self) -> None:
        """Take the keys: no line discipline waits for Enter, and none echoes."""
        if self._stdin is not None:
            with contextlib.suppress(termios.error):
                tty.setcbreak(self._stdin, termios.TCSANOW)

    def put_back(self) -> None:
        """Put back the modes that the terminal had."""
        if self._stdin is not None and self._modes is not None:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._stdin, termios.TCSANOW, self._modes)

    def stop_process(self) -> None:
        """Stop this process, as Ctrl-Z does. Returns when it goes on."""
        self.put_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        try:
            os.kill(os.getpid(), signal.SIGTSTP)
        finally:
            signal.signal(signal.SIGTSTP, self._note)
            self.take()

    def wake(self) -> None:
        """End a ``wait`` that runs. Any thread may call it."""
        with contextlib.suppress(OSError):  # a full pipe wakes as well
            os.write(self._wakes, b"\0")

    def wait(self, seconds: float | None = None) -> list[str]:
        """The keys that are typed, as soon as there are some. Empty after ``seconds``, a signal or a ``wake``.

        Raises ``EOFError`` if the terminal is gone.
        """
        within = self._reader.is_within
        heard = [self._woken] if self._stdin is None else [self._woken, self._stdin]
        ready, _, _ = select.select(heard, [], [], _ESCAPE_S if within else seconds)
        if self._woken in ready:
            with contextlib.suppress(OSError):
                os.read(self._woken, _PIECE)
        if self._stdin is None or self._stdin not in ready:
            return self._reader.flush() if within else []
        try:
            piece = os.read(self._stdin, _PIECE)
        except OSError:
            piece = b""
        if not piece:
            raise EOFError
        return self._reader.feed(piece)

    def signals(self) -> list[int]:
        """The signals that came since the last call."""
        found, self._signals = self._signals, []
        return found


Wake = Callable[[], None]
