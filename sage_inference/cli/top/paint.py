"""Lines on the terminal, by Rich: in place on its other screen, or one below the other."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

from sage_inference.cli.top.grid import Line

_FALLBACK = (80, 24)
# For terminals without Unicode. Each has the width of what it stands for.
_PLAIN = str.maketrans(
    {"█": "#", "░": "-", "▼": "v", "▲": "^", "…": "~", "←": "<", "→": ">", "↑": "^", "↓": "v"}
)


def console(colour: bool | None) -> Console:
    """``colour``: False for none, True for colour also in a pipe, None for colour on a terminal."""
    return Console(
        file=sys.stdout,
        no_color=True if colour is False else None,
        force_terminal=True if colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal at stdout, also where COLUMNS is set."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return _FALLBACK
    return (found.columns or _FALLBACK[0], found.lines or _FALLBACK[1])


class Painting:
    """Lines as Rich prints them. ``width`` keeps the styles of spaces at the end, and without it they go."""

    def __init__(self, lines: Sequence[Line], encoding: str) -> None:
        self._lines = lines
        self._is_plain = not encoding.lower().startswith(("utf", "cp65001"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from self._segments(line)
            yield Segment.line()

    def _segments(self, line: Line) -> Iterator[Segment]:
        for text, style in line:
            if text:
                yield Segment(text.translate(_PLAIN) if self._is_plain else text, Style.parse(style))


def print_lines(lines: Sequence[Line], to: Console) -> None:
    """Print lines of any width. Spaces at their ends go."""
    trimmed = [[*line[:-1], line[-1]._replace(text=line[-1].text.rstrip())] if line else [] for line in lines]
    to.print(Painting(trimmed, to.encoding), crop=False, no_wrap=True, overflow="ignore", end="")
    sys.stdout.flush()


class OtherScreen:
    """The other screen of the terminal while its ``with`` block lasts. The first one comes back unchanged."""

    def __init__(self, colour: bool | None) -> None:
        self._console = console(colour)
        self._live: Live | None = None

    def __enter__(self) -> OtherScreen:
        self.show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            self.hide()

    def show(self) -> None:
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def hide(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def clear(self) -> None:
        self._console.clear()

    def draw(self, lines: Sequence[Line], size: tuple[int, int]) -> None:
        if self._live is not None:
            self._console.size = size
            self._live.update(Painting(lines, self._console.encoding), refresh=True)
