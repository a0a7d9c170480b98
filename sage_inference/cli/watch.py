"""Shows a text again and again: in place on a terminal, one below the other in a pipe."""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand
from sage_inference.visible import without_colours

EVERY_S = 2.0
_LEAST_S, _MOST_S = 0.1, 86400.0
_END_OF_LINE, _END_OF_SCREEN, _CLEAR = "\x1b[K", "\x1b[J", "\x1b[H\x1b[2J"

Frame = Callable[[int | None], list[str]]


class WatchedCommand(PlainCommand):
    """A command that takes ``--watch``, ``--watch SECONDS`` and ``--watch=SECONDS``."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        given = [
            word for arg in args for word in (arg.split("=", 1) if arg.startswith("--watch=") else [arg])
        ]
        return super().parse_args(ctx, given)


def interval(seconds: str | None, *, watches: bool) -> float:
    """The seconds between two looks. Raises a usage failure."""
    if seconds is None:
        return EVERY_S
    if not watches:
        raise usage(f'unexpected argument "{seconds[:80]}"', "SECONDS follow --watch, as in: --watch 5")
    try:
        found = float(seconds)
    except ValueError:
        found = math.nan
    if not _LEAST_S <= found <= _MOST_S:
        raise usage(f'--watch takes seconds from {_LEAST_S:g} to {_MOST_S:g}, not "{seconds[:80]}"')
    return found


def watch(frame: Frame, every_s: float, colour: bool | None, *, in_place: bool = True) -> None:
    """Show what ``frame`` returns for a width, until q or Ctrl-C. Lines may have colours, and no other control codes.

    Without ``in_place``, frames are written as they are, one below the other, also on a terminal.
    """
    try:
        if not in_place:
            _append(frame, every_s, "")
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            with _keys() as wait:
                _redraw(frame, every_s, colour, wait)
        else:
            _append(frame, every_s, "\n")
    except KeyboardInterrupt:
        if sys.stdout.isatty():
            typer.echo("")


def _append(frame: Frame, every_s: float, between: str) -> None:
    while True:
        began = time.monotonic()
        typer.echo("\n".join(frame(None)) + between)
        sys.stdout.flush()
        time.sleep(max(0.0, began + every_s - time.monotonic()))


def _redraw(frame: Frame, every_s: float, colour: bool | None, wait: Callable[[float], bool]) -> None:
    size, height = os.terminal_size((0, 0)), 0
    while True:
        began = time.monotonic()
        now = shutil.get_terminal_size()
        # The last column stays empty: some terminals break a line that fills it.
        lines = [*frame(max(now.columns - 1, 1)), typer.style("q or Ctrl-C ends", dim=True)]
        lines = _that_fit(lines, now.lines - 1)
        if colour is False:
            lines = [without_colours(line) for line in lines]
        # A terminal that was resized has wrapped what stood there, so its lines cannot be counted.
        start = _CLEAR if size.columns and now != size else f"\x1b[{height}A\r" if height else ""
        # One write, and no clearing before it: a terminal shows no state between two frames.
        text = "".join(f"{line}{_END_OF_LINE}\n" for line in lines)
        sys.stdout.write(f"{start}{text}{_END_OF_SCREEN}")
        sys.stdout.flush()
        size, height = now, len(lines)
        if wait(max(0.0, began + every_s - time.monotonic())):
            return


def _that_fit(lines: list[str], most: int) -> list[str]:
    """The first lines, and the last one. A frame that is higher than its terminal could not be drawn in place."""
    return lines if len(lines) <= most else [*lines[: max(most - 1, 0)], lines[-1]]


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits, and returns True if q is typed meanwhile. Needs no Enter while the block lasts."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, termios.error):  # stdin is no terminal
        yield _sleep
        return

    def wait(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([descriptor], [], [], rest)
            if ready:
                typed = os.read(descriptor, 64)
                if not typed:
                    raise KeyboardInterrupt  # the terminal is gone
                if b"q" in typed.lower() or b"\x04" in typed:
                    return True
        return False

    def ended(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handler = signal.signal(signal.SIGTERM, ended)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        yield wait
    finally:
        signal.signal(signal.SIGTERM, handler)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
