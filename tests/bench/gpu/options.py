"""The options of a part on the command line: ``NAME:key=value,key=value``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class Options:
    """Values by name, with the part's own for what was not given. Lists are joined by ``+``."""

    values: Mapping[str, str]

    def number(self, name: str) -> float:
        try:
            return float(self.values[name])
        except ValueError:
            raise BenchError(f'{name}="{self.values[name]}" is not a number') from None

    def count(self, name: str) -> int:
        return int(self.number(name))

    def words(self, name: str) -> list[str]:
        return [word for word in self.values[name].split("+") if word]


def parse(text: str, defaults: Mapping[str, str]) -> Options:
    """Of the text after the part's name. Raises ``BenchError`` for a name that the part does not know."""
    values = dict(defaults)
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or name not in values:
            raise BenchError(f'"{pair}" is no option of this part; it has {", ".join(defaults) or "none"}')
        values[name] = value
    return Options(values)
