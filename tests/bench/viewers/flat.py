"""The gateway's memory over minutes of streams, while pages and ``top`` watch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.viewers.scene import Scene

_SPELL_S = 15.0  # of one load generator; its callers are new ones each time


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident MiB by seconds since the begin. The first quarter is warm-up."""

    samples: Sequence[tuple[float, float]]

    @property
    def slope_mib_per_hour(self) -> float:
        """Of the straight line through the last three quarters, by least squares."""
        settled = self.samples[len(self.samples) // 4 :]
        if len(settled) < 2:
            return 0.0
        times, sizes = zip(*settled, strict=True)
        return statistics.linear_regression(times, sizes).slope * 3600

    @property
    def growth(self) -> float:
        """The median of the last quarter ÷ that of the second one."""
        quarter = max(1, len(self.samples) // 4)
        sizes = [size for _, size in self.samples]
        return statistics.median(sizes[-quarter:]) / statistics.median(sizes[quarter : 2 * quarter] or sizes)


def memory(scene: Scene, minutes: float, on_sample: Callable[[float, float], None]) -> Memory:
    """Streams without end for ``minutes``; ``on_sample`` gets seconds and MiB, every 15 s or so."""
    samples: list[tuple[float, float]] = []
    began = time.monotonic()
    while (left := minutes * 60 - (time.monotonic() - began)) > 0:
        scene.paced(min(_SPELL_S, left))
        samples.append((time.monotonic() - began, scene.resident_mib()))
        on_sample(*samples[-1])
    return Memory(samples)
