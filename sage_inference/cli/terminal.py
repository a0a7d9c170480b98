"""Words for a person: colour where it is wanted, warnings and progress on stderr."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import typer

PROGRESS_AFTER_S = 0.3


def colour_choice(args: Sequence[str], environ: Mapping[str, str] | None = None) -> bool | None:
    """True and False where somebody chose; None leaves it to whether the stream is a terminal."""
    environ = os.environ if environ is None else environ
    given = args[: args.index("--")] if "--" in args else args
    if "--no-color" in given or environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return False if environ.get("TERM") == "dumb" else None


def say(text: str, *, style: str | None = None) -> None:
    """Part of the answer: a line on stdout."""
    typer.echo(typer.style(text, fg=style) if style else text)


def talk(text: str) -> None:
    """About the answer: a line on stderr."""
    typer.echo(text, err=True)


def warn(text: str, hint: str | None = None) -> None:
    typer.echo(f"{typer.style('warning:', fg='yellow', bold=True)} {text}", err=True)
    if hint:
        typer.echo(f"{typer.style('hint:', bold=True)} {hint}", err=True)


def fail(message: str, hint: str | None, colour: bool | None) -> None:
    """The last words of a command that failed. Outside any command, so the colour choice is handed in."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {message}", err=True, color=colour)
    if hint:
        typer.echo(f"{typer.style('hint:', bold=True)} {hint}", err=True, color=colour)


def is_live(environ: Mapping[str, str] | None = None) -> bool:
    """Whether stderr can show a line that changes."""
    return sys.stderr.isatty() and (os.environ if environ is None else environ).get("TERM") != "dumb"


class Waiting:
    """Says on stderr what is awaited, once that takes longer than 300 ms.

    On a terminal one line that counts seconds and vanishes; elsewhere a plain line at start and end.
    """

    def __init__(self, what: str, *, after_s: float = PROGRESS_AFTER_S) -> None:
        self._what = what
        self._after_s = after_s
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
            line = f"{self._what} ({time.monotonic() - self._started:.0f} s)"
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
            if self._done.wait(0.2):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                return

    def __enter__(self) -> Waiting:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
