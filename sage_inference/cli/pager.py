"""A long text on a terminal, through the reader's pager."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from shutil import which

from sage_inference.cli import terminal

_DEFAULT = "less"
# As in git. F: exit at once if the text fits the screen. R: pass colours on. X: leave the text on the screen.
_LESS = "FRX"


def show(text: str) -> None:
    """Show ``text`` in ``$PAGER``, or print it if there is no pager.

    Ctrl-C belongs to the pager while it runs. A pager that is left early is no error.
    """
    command = _command(os.environ)
    if command is None:
        terminal.say_made(text.rstrip("\n"))
        return
    environ = {"LESS": _LESS, **os.environ}
    # A handler, not SIG_IGN: an ignored signal stays ignored in the pager, a handler does not outlive exec.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        subprocess.run(command, input=text.encode(), env=environ, check=False)  # noqa: S603 - the reader's choice
    finally:
        signal.signal(signal.SIGINT, before)


def takes_colour(environ: Mapping[str, str] | None = None) -> bool:
    """Whether escapes for colour reach the terminal: printed directly, or by a ``less`` with ``-R``."""
    environ = os.environ if environ is None else environ
    if environ.get("TERM") == "dumb":
        return False
    command = _command(environ)
    if command is None:
        return True
    flags = environ.get("LESS", _LESS)
    return Path(command[0]).name == "less" and "r" in (flags + "".join(command[1:])).lower()


def _command(environ: Mapping[str, str]) -> list[str] | None:
    """The pager's command line; None if it is empty, ``cat`` or not installed."""
    if environ.get("TERM") == "dumb":
        return None
    try:
        command = shlex.split(environ.get("PAGER", _DEFAULT))
    except ValueError:  # an open quote
        return None
    if not command or command == ["cat"] or which(command[0]) is None:
        return None
    return command
