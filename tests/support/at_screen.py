"""A command at a terminal whose screen can be read, as a person sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte

from tests.support.at_terminal import AtTerminal

_WITHIN_S = 30.0
KEYS = {
    "up": "\x1b[A",
    "down": "\x1b[B",
    "right": "\x1b[C",
    "left": "\x1b[D",
    "enter": "\r",
    "escape": "\x1b",
}


class AtScreen(AtTerminal):
    """``sage inference ARGS`` at a terminal whose lines are in ``display``."""

    def __init__(self, home: Path, *args: str, columns: int = 80, lines: int = 24, **more: Any) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self._fed = 0
        super().__init__(home, *args, columns=columns, lines=lines, **more)

    @property
    def display(self) -> list[str]:
        self._stream.feed(self.shown[self._fed :])
        self._fed = len(self.shown)
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.display)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.type(KEYS.get(key, key))

    def resize(self, columns: int, lines: int) -> None:
        _ = self.text
        self._screen.resize(lines, columns)
        super().resize(columns, lines)

    def until(self, is_shown: Callable[[str], object]) -> str:
        """Wait for a screen that fits. Returns its text."""
        deadline = time.monotonic() + _WITHIN_S
        while not is_shown(text := self.text):
            assert time.monotonic() < deadline, f"not shown:\n{text}"
            assert self._more(), f"ended:\n{text}"
        return text
