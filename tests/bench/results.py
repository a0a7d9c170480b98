"""All figures of a run: by scenario, target and round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.bench.figures import median, spread
from tests.bench.scenarios.base import Figures


class Results:
    """Medians and spreads over rounds; None for what was not measured."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, list[Figures]]] = {}

    def add(self, scenario: str, target: str, figures: Figures) -> None:
        self._rounds.setdefault(scenario, {}).setdefault(target, []).append(figures)

    def targets(self, scenario: str) -> Iterable[str]:
        return self._rounds.get(scenario, {})

    def median(self, scenario: str, target: str, key: str) -> float | None:
        return median(self._values(scenario, target, key))

    def spread(self, scenario: str, target: str, key: str) -> tuple[float, float] | None:
        return spread(self._values(scenario, target, key))

    def rounds(self) -> Mapping[str, Mapping[str, list[Figures]]]:
        """By scenario and target."""
        return self._rounds

    def _values(self, scenario: str, target: str, key: str) -> list[float | None]:
        return [figures.get(key) for figures in self._rounds.get(scenario, {}).get(target, [])]
