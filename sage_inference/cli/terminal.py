"""Output for a person: colour if it is wanted, warnings and progress on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import typer

from sage_inference.cli.program import as_called
from sage_inference.visible import visible, visible_json

PROGRESS_AFTER_S = 0.3


def colour_choice(args: Sequence[str], environ: Mapping[str, str] | None = None) -> bool | None:
    """True or False if the user chose; None means colour if the stream is a terminal."""
    environ = os.environ if environ is None else environ
    given = args[: args.index("--")] if "--" in args else args
    if "--no-color" in given or environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return False if environ.get("TERM") == "dumb" else None


def say(text: str, *, style: str | None = None) -> None:
    """Print a line of the answer on stdout. Control characters are shown, not obeyed."""
    text = visible(text)
    _print(typer.style(text, fg=style) if style else text)


def say_json(document: Any, *, indent: int | None = None) -> None:
    """Print an answer for a script on stdout."""
    _print(json_text(document, indent=indent))


def say_made(text: str) -> None:
    """Print lines that we made, with their line breaks and colours. Text from outside in them must be ``visible``."""
    _print(text)


def _print(text: str) -> None:
    try:
        typer.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def json_text(document: Any, *, indent: int | None = None) -> str:
    """JSON as people read it, without characters that steer a terminal."""
    return visible_json(json.dumps(document, indent=indent, ensure_ascii=False))


def talk(text: str) -> None:
    """Print a line about the answer on stderr."""
    # A full or closed stderr must not change what the command does.
    with contextlib.suppress(OSError):
        typer.echo(visible(text), err=True)


def warn(text: str, hint: str | None = None) -> None:
    with contextlib.suppress(OSError):
        _remark("warning:", "yellow", text, hint, None)


def fail(message: str, hint: str | None, colour: bool | None) -> None:
    """Print the error of a command that failed. ``colour`` is an argument because no command is active."""
    _remark("error:", "red", message, hint, colour)


def _remark(label: str, fg: str, text: str, hint: str | None, colour: bool | None) -> None:
    text = as_called(text)
    typer.echo(f"{typer.style(label, fg=fg, bold=True)} {visible(text)}", err=True, color=colour)
    if hint:
        typer.echo(f"{typer.style('hint:', bold=True)} {visible(as_called(hint))}", err=True, color=colour)


def rewrite(text: str) -> None:
    """Show ``text`` in place of the line that stderr, a terminal, shows now; empty text removes it."""
    sys.stderr.write(f"\r{visible(text)}\x1b[K")
    sys.stderr.flush()


def is_live(environ: Mapping[str, str] | None = None) -> bool:
    """Whether stderr can show a line that changes."""
    return sys.stderr.isatty() and (os.environ if environ is None else environ).get("TERM") != "dumb"


class WaitIndicator:
    """Shows on stderr what a command waits for, once the wait takes longer than 300 ms.

    A terminal shows one line that counts seconds and vanishes; other outputs get a plain line at start and end.
    With ``later`` the wait starts at ``begin``. A command uses it that may find nothing to wait for.
    """

    def __init__(self, what: str, *, after_s: float = PROGRESS_AFTER_S, later: bool = False) -> None:
        self._what = what
        self._after_s = after_s
        self._later = later
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._started = time.monotonic()

    def update(self, what: str) -> None:
        self._what = what

    def _show(self) -> None:
        if self._done.wait(self._after_s):
            return
        if not is_live():
            talk(f"{self._what} …")
            self._done.wait()
            talk(f"{self._what}: {time.monotonic() - self._started:.1f} s")
            return
        while True:
            rewrite(f"{self._what} ({time.monotonic() - self._started:.0f} s)")
            if self._done.wait(0.2):
                rewrite("")
                return

    def begin(self, *_: object) -> None:
        """Begin to wait. Later calls have no effect, so this may be a listener that is called often."""
        if self._thread.ident is None:
            self._started = time.monotonic()
            self._thread.start()

    def __enter__(self) -> WaitIndicator:
        if not self._later:
            self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the wait. A later ``begin`` has no effect."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()


class OneAtATime:
    """Shows one of several waits, the last that was named: they share a line of the terminal."""

    def __init__(self) -> None:
        self._shown: WaitIndicator | None = None

    def on(self, waiting: WaitIndicator) -> None:
        if self._shown is not waiting:
            self.__exit__()
            self._shown = waiting
        waiting.begin()

    def __enter__(self) -> OneAtATime:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.end()
