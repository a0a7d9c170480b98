"""Totals of the tally, of the whole gateway and of each instance, added up in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_inference.telemetry.tally import Counts


class Totals:
    """Requests and tokens since the start. ``errors`` are requests with status 400 and above."""

    def __init__(self, series: Mapping[tuple[str, int, str, str, str], Counts]) -> None:
        self.counts = Counts()
        self.errors = 0
        self.by_instance: dict[str, Counts] = {}
        for (_, status, _, instance, _), counts in series.items():
            self.counts.add(counts)
            if status >= 400:
                self.errors += counts.requests
            if instance:
                self.by_instance.setdefault(instance, Counts()).add(counts)

    def tokens(self) -> dict[str, Any]:
        """The tokens that engines reported, and beside them the estimate where they reported none."""
        counts = self.counts
        return {
            "prompt": counts.prompt,
            "completion": counts.completion,
            "cached": counts.cached,
            "estimated_prompt": counts.estimated_prompt,
            "estimated_completion": counts.estimated_completion,
        }

    def requests_of(self, instance: str) -> int:
        counts = self.by_instance.get(instance)
        return 0 if counts is None else counts.requests

    def generated_by(self, instance: str) -> int:
        counts = self.by_instance.get(instance)
        return 0 if counts is None else counts.completion + counts.estimated_completion
