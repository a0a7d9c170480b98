"""Measured times, kept exactly, and their summaries."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

PER_MILLE = {"p50": 500, "p90": 900, "p99": 990, "p999": 999}


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """A summary in milliseconds. Each percentile is a measured value (nearest rank), never an interpolated one."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


def samples() -> array[float]:
    """An empty store of seconds: 8 bytes each."""
    return array("d")


def summary(seconds: array[float]) -> LatencySummary | None:
    """The summary of times in seconds. None if there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    found = {name: nearest_rank(ordered, share) * 1000 for name, share in PER_MILLE.items()}
    return LatencySummary(len(ordered), sum(ordered) * 1000 / len(ordered), max=ordered[-1] * 1000, **found)


def nearest_rank(ordered: list[float], per_mille: int) -> float:
    """The smallest value that at least ``per_mille`` of 1000 do not exceed.

    The rank is computed with whole numbers, because 0.999 · n is not exact.
    """
    return ordered[max(0, (per_mille * len(ordered) + 999) // 1000 - 1)]
