"""Reads what is typed at the prompt: one line, or several joined by a backslash or between triple quotes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sage_inference.cli.chat.history import History
from sage_inference.cli.chat.interrupts import InterruptWatch
from sage_inference.cli.chat.words import clean

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

_PROMPT, _MORE = ">>> ", "... "
_QUOTES = '"""'


class Ended(Exception):  # noqa: N818 - not an error
    """Ctrl-D, or the terminal is gone."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C at the prompt. ``was_empty``: nothing was typed."""

    def __init__(self, was_empty: bool) -> None:
        super().__init__()
        self.was_empty = was_empty


class Lines:
    """``words`` returns what Tab completes at the begin of a line or behind ``/model``."""

    def __init__(
        self,
        paths: Paths | None,
        *,
        keeps_history: bool,
        words: Callable[[], list[str]],
        interrupts: InterruptWatch,
    ) -> None:
        self._readline = _readline()
        self._words = words
        self._interrupts = interrupts
        self._history = History(self._readline, paths) if keeps_history else None
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        if self._readline is not None:
            self._readline.set_auto_history(False)  # a text of several lines is one entry
            self._readline.set_completer_delims(" \n")
            self._readline.set_completer(self._complete)
            self._readline.parse_and_bind("tab: complete")

    def read(self) -> str:
        """The text that was typed. Raises ``Ended`` and ``Interrupted``."""
        typed: list[str] = []
        quoted = False
        while True:
            line = self._line(_MORE if typed else _PROMPT, bool(typed))
            first = not typed
            if quoted:
                before, end, after = line.partition(_QUOTES)
                typed.append(before + after)
                if end:
                    break
            elif first and line.lstrip().startswith(_QUOTES):
                rest = line.lstrip().removeprefix(_QUOTES)
                before, end, after = rest.partition(_QUOTES)
                typed.append(before + after)
                if end:
                    break
                quoted = True
            elif line.endswith("\\"):
                typed.append(line[:-1])
            else:
                typed.append(line)
                break
        text = clean("\n".join(typed)).strip("\n")
        if text.strip() and self._history is not None:
            self._history.add(text)
        elif text.strip() and self._readline is not None:
            self._readline.add_history(text)
        return text

    def _line(self, prompt: str, has_more: bool) -> str:
        """One line. Raises ``Ended`` and ``Interrupted``."""
        typed = ""

        def interrupted() -> None:
            nonlocal typed
            typed = self._readline.get_line_buffer() if self._readline is not None else ""

        try:
            with self._interrupts.watching(interrupted):
                return input(prompt)
        except KeyboardInterrupt:
            raise Interrupted(not typed and not has_more) from None
        except (EOFError, OSError, ValueError):  # also if the terminal is gone, or stdin was closed
            raise Ended from None

    def _complete(self, begun: str, number: int) -> str | None:
        with suppress(Exception):  # readline shows no errors, and must not end the line
            line = self._readline.get_line_buffer().lstrip()
            if line.startswith("/"):
                fitting = [word for word in self._words() if word.startswith(begun)]
                return fitting[number] if number < len(fitting) else None
        return None


def _readline() -> Any:
    """The module, if this Python has it. ``input`` uses it as soon as it is imported."""
    try:
        import readline
    except ImportError:
        return None
    return readline
