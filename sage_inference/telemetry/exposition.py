"""Prometheus text exposition of numbers from elsewhere, and histograms.

Format: Prometheus text-based exposition, version 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]


class Histogram:
    """Counts of observations per bucket. ``bounds`` are the upper limits of the buckets in seconds, ascending."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def __add__(self, other: Histogram) -> Histogram:
        """The observations of both. They must have the same buckets."""
        both = Histogram(self.bounds)
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.total = self.total + other.total
        return both


class RecentMean:
    """The mean of the observations in the last ``kept`` ticks. Without any, the last mean stays."""

    def __init__(self, *histograms: Histogram, kept: int = 10) -> None:
        self._histograms = histograms
        self._marks: deque[tuple[int, float]] = deque([(0, 0.0)], maxlen=kept)
        self._last: float | None = None

    def tick(self) -> None:
        self._marks.append(self._sums())

    @property
    def value(self) -> float | None:
        """The mean in the unit of the histograms. None before the first observation."""
        (count, total), (all_count, all_total) = self._marks[0], self._sums()
        if all_count > count:
            self._last = (all_total - total) / (all_count - count)
        return self._last

    def _sums(self) -> tuple[int, float]:
        counts = sum(sum(histogram.counts) for histogram in self._histograms)
        return counts, sum(histogram.total for histogram in self._histograms)


class Exposition:
    """A page of metrics, to which families are added in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def counter(self, name: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._family(name, "counter", help_, samples)

    def gauge(self, name: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._family(name, "gauge", help_, samples)

    def histogram(self, name: str, help_: str, samples: Iterable[tuple[Labels, Histogram]]) -> None:
        self._head(name, "histogram", help_)
        for labels, histogram in samples:
            below = 0
            for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                below += count
                le = "+Inf" if bound == float("inf") else repr(bound)
                self._sample(f"{name}_bucket", {**labels, "le": le}, below)
            self._sample(f"{name}_sum", labels, histogram.total)
            self._sample(f"{name}_count", labels, below)

    def text(self) -> str:
        return "".join(self._lines)

    def _family(self, name: str, kind: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._head(name, kind, help_)
        for labels, value in samples:
            self._sample(name, labels, value)

    def _head(self, name: str, kind: str, help_: str) -> None:
        self._lines.append(f"# HELP {name} {help_}\n# TYPE {name} {kind}\n")

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self._lines.append(f"{name}{{{pairs}}} {value!r}\n" if pairs else f"{name} {value!r}\n")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
