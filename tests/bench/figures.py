"""The arithmetic of the report: percentiles, medians, spreads and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that at least the share ``q`` of ``values`` does not exceed (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -int(-q * len(ordered) // 1))
    return ordered[min(rank, len(ordered)) - 1]


def median(values: Sequence[float | None]) -> float | None:
    """Of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def spread(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Smallest and largest of the values that are known."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def summary(values_ns: Sequence[float], prefix: str) -> dict[str, float | None]:
    """p50, p99 and maximum in microseconds, of nanoseconds."""
    marks = {
        "p50": percentile(values_ns, 0.5),
        "p99": percentile(values_ns, 0.99),
        "max": max(values_ns, default=None),
    }
    return {f"{prefix}_{name}_us": None if v is None else v / 1e3 for name, v in marks.items()}
