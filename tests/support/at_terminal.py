"""A command at a terminal of its own, as a person types and reads."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.gateway import clean_environment

CTRL_C, CTRL_D = "\x03", "\x04"
OURS = (sys.executable, "-m", "sage_inference", "inference")
_WITHIN_S = 30.0


class AtTerminal:
    """``sage inference ARGS`` with stdin, stdout and stderr on a terminal of ``columns``.

    ``command`` is another program, and ``stdin`` another standard input.
    """

    def __init__(
        self,
        home: Path,
        *args: str,
        columns: int = 80,
        lines: int = 24,
        command: Sequence[str] = OURS,
        stdin: int | None = None,
        env: Mapping[str, str] | None = None,
        **more_env: str,
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.shown = ""
        self._read_to = 0
        self.modes = termios.tcgetattr(self._ours)  # before the program changes them
        more_env = {**(env or {}), **more_env}
        environ = {"TERM": "xterm", "INPUTRC": os.devnull, **clean_environment(home, **more_env)}
        for name in ("COLUMNS", "LINES"):  # xdist sets them for its workers
            environ.pop(name, None)
        self.process = subprocess.Popen(
            [*command, *args],
            env=environ,
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal if stdin is None else None,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def modes_now(self) -> list[object]:
        return termios.tcgetattr(self._ours)

    def wait_for(self, words: str) -> str:
        """Wait until the words are shown behind those that were waited for before. Returns the text up to them."""
        deadline = time.monotonic() + _WITHIN_S
        while (at := self.shown.find(words, self._read_to)) < 0:
            assert time.monotonic() < deadline, f"no {words!r} in {self.shown!r}"
            assert self._more(), f"ended without {words!r}: {self.shown!r}"
        text = self.shown[self._read_to : at]
        self._read_to = at + len(words)
        return text

    def end(self) -> int:
        """The exit status, after all output was read."""
        deadline = time.monotonic() + _WITHIN_S
        while self._more():
            assert time.monotonic() < deadline, f"it goes on: {self.shown!r}"
        return self.process.wait(_WITHIN_S)

    def _more(self) -> bool:
        """Read what there is. False at the end."""
        ready, _, _ = select.select([self._ours], [], [], 0.2)
        if not ready:
            return True
        try:
            piece = os.read(self._ours, 65536)
        except OSError:  # how a terminal ends
            return False
        self.shown += piece.decode("utf-8", "replace")
        return bool(piece)


def _take_terminal() -> None:
    """Ctrl-C reaches only the group in the foreground of its own terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
