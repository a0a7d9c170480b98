"""How a benchmark cannot even begin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BenchError(Exception):
    """There is nothing to measure: the words are for a person, and the hint says what to do."""

    message: str
    hint: str | None = None
    code: str = "bench"

    def __str__(self) -> str:
        return self.message


@dataclass
class OptionError(Exception):
    """A value that makes no sense: which option, what was given, what would do."""

    option: str
    given: str
    wanted: str

    def __str__(self) -> str:
        return f'{self.option}: "{self.given}" is not {self.wanted}'


@dataclass
class OptionConflict(Exception):
    """Two options that cannot both hold, and why."""

    first: str
    second: str
    why: str

    def __str__(self) -> str:
        return f"{self.first} and {self.second} exclude each other: {self.why}"
