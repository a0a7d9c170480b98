"""Rates of the last second: how much a total grew between two documents."""

from __future__ import annotations

from collections.abc import Mapping


class Growth:
    """Growth a second of totals that are given by name. A name without a total before has no rate yet."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._totals: dict[str, float] = {}

    def of(self, totals: Mapping[str, float], now: float) -> dict[str, float]:
        before, self._totals = self._totals, dict(totals)
        since, self._at = self._at, now
        took = 0.0 if since is None else now - since
        if took <= 0:
            return dict.fromkeys(totals, 0.0)
        # A total can fall: tokens of a stream are counted by chunks while it runs, and by its engine's report afterwards.
        return {
            name: round(max(0.0, total - before.get(name, total)) / took, 2) for name, total in totals.items()
        }
