"""A mistake in a configuration: its place, and the way to mend it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass


class ConfigError(Exception):
    """One mistake. ``source`` is a file or ``environment``, or empty for flags. Line and column count from 1."""

    def __init__(
        self,
        problem: str,
        *,
        source: str = "",
        line: int | None = None,
        column: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.source = source
        self.line = line
        self.column = column
        self.key = key
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        place = [part for part in (self.source, self.line, self.column) if part not in ("", None)]
        where = ":".join(map(str, place)) + ": " if place else ""
        return where + self.problem + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Remark:
    """A setting that is valid but probably a mistake. ``hint`` is the remedy."""

    problem: str
    hint: str

    def __str__(self) -> str:
        return f"{self.problem}; {self.hint}"


class Invalid(ValueError):
    """A value that its key does not take. ``problem`` continues a sentence that begins with the key's name."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def quote(text: str) -> str:
    """``text`` in quotes on one line, escaped, and cut if it is long."""
    return json.dumps(text if len(text) <= 60 else text[:57] + "...", ensure_ascii=not text.isprintable())


def meant(word: str, known: Iterable[str]) -> str | None:
    """``did you mean …?`` with the nearest of ``known``, if one is near."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` resembles most, if one is near."""
    spelled = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:80].lower(), spelled, n=1)
    return spelled[near[0]] if near else None
