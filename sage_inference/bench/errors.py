"""Errors that keep a benchmark from starting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class BenchError(Exception):
    """Nothing can be measured. The message and the hint are for users."""

    message: str
    hint: str | None = None
    code: str = "bench"

    def __str__(self) -> str:
        return self.message


@dataclass
class OptionError(Exception):
    """An invalid value: the option, the value, and a description of valid ones."""

    option: str
    given: str
    wanted: str

    def __str__(self) -> str:
        return f'{self.option}: "{self.given}" is not {self.wanted}'


@dataclass
class OptionConflict(Exception):
    """Two options that exclude each other, and the reason."""

    first: str
    second: str
    why: str

    def __str__(self) -> str:
        return f"{self.first} and {self.second} exclude each other: {self.why}"
