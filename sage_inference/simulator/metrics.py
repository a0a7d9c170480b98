"""Counters and histograms in Prometheus's text format, as far as the simulated engines need it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

Labels = Mapping[str, str]


def labelled(name: str, labels: Labels) -> str:
    if not labels:
        return name
    pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{name}{{{pairs}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Histogram:
    def __init__(self, buckets: Iterable[float]) -> None:
        self.bounds = tuple(buckets)
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
        self.count += times

    def lines(self, name: str, labels: Labels) -> Iterable[str]:
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self._counts, strict=True):
            seen += count
            yield f"{labelled(f'{name}_bucket', {**labels, 'le': bound})} {float(seen)}"
        yield f"{labelled(f'{name}_count', labels)} {float(self.count)}"
        yield f"{labelled(f'{name}_sum', labels)} {self.sum}"


class Page:
    """The page of ``/metrics``, with metrics in the order of their declaration."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._families: list[Callable[[], Iterable[str]]] = []

    def number(self, kind: str, name: str, help_: str, read: Callable[[], float], **labels: str) -> None:
        """Add a counter or gauge, whose value is read at each render."""
        self.numbers(kind, name, help_, lambda: [(labels, read())])

    def numbers(
        self, kind: str, name: str, help_: str, read: Callable[[], Iterable[tuple[Labels, float]]]
    ) -> None:
        """Add a counter or gauge with several label sets."""

        def lines() -> Iterable[str]:
            yield from _head(kind, name, help_)
            for labels, value in read():
                yield f"{labelled(name, {**self._labels, **labels})} {float(value)}"

        self._families.append(lines)

    def histogram(self, name: str, help_: str, buckets: Iterable[float]) -> Histogram:
        histogram = Histogram(buckets)

        def lines() -> Iterable[str]:
            yield from _head("histogram", name, help_)
            yield from histogram.lines(name, self._labels)

        self._families.append(lines)
        return histogram

    def render(self) -> bytes:
        return "".join(f"{line}\n" for family in self._families for line in family()).encode()


def _head(kind: str, name: str, help_: str) -> Iterable[str]:
    return (f"# HELP {name} {help_}", f"# TYPE {name} {kind}")
