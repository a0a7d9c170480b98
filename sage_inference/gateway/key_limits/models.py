"""The models that a key may use: names, aliases, and patterns with ``*``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

_MOST = 256  # models whose answer is kept; callers choose their names


class Names(Protocol):
    """The registry, as far as it knows names of models."""

    @property
    def aliases(self) -> Mapping[str, str]: ...

    def resolve(self, model: str) -> str: ...


class AllowedModels:
    """The models of one key. A model is allowed by its own name, and by each of its aliases. Empty: all are."""

    def __init__(self, patterns: Sequence[str], names: Names) -> None:
        self.patterns = tuple(patterns)
        self._names = names
        self._known: dict[str, bool] = {}

    def forget(self) -> None:
        """Decide anew, because models or aliases changed."""
        self._known.clear()

    def allow(self, model: str) -> bool:
        """Whether a served model is allowed; its aliases count, too."""
        if not self.patterns:
            return True
        found = self._known.get(model)
        if found is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            found = self._known[model] = self._decide(model)
        return found

    def _matches(self, name: str) -> bool:
        return any(matches(pattern, name) for pattern in self.patterns)

    def _decide(self, model: str) -> bool:
        if self._matches(model):
            return True
        names = self._names
        return any(
            names.resolve(alias) == model and self._matches(alias)
            for alias in (*names.aliases, *self.patterns)
        )


def matches(pattern: str, name: str) -> bool:
    """Whether ``name`` has the form of ``pattern``, in which ``*`` stands for any text.

    No regular expression: with several stars, its time would grow by a power of the length of a name.
    """
    begin, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, end = rest
    if not (name.startswith(begin) and name.endswith(end) and len(name) >= len(begin) + len(end)):
        return False
    at, stop = len(begin), len(name) - len(end)
    for part in middle:
        found = name.find(part, at, stop)
        if found < 0:
            return False
        at = found + len(part)
    return True
