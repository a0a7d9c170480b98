"""Prefills of answers in one piece: their first byte arrives with the last, so it does not show when they ended."""

from __future__ import annotations

import heapq
import itertools
import math

from sage_inference.control_plane.instances.load import Placement


class SilentPrefills:
    """A silent prefill counts as ended when its instance should be done with it; ``heap`` has the soonest first."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Placement]] = []
        self._pushes = itertools.count()

    def add(self, placement: Placement, now: float) -> None:
        heapq.heappush(self.heap, (placement.expect(now), next(self._pushes), placement))

    def catch_up(self, now: float) -> None:
        heap = self.heap
        while heap and heap[0][0] <= now:
            placement = heapq.heappop(heap)[2]
            if placement.pending:
                placement.presumed_begun()

    def next_at(self) -> float:
        """The time when the next one should be done; infinite if there is none."""
        heap = self.heap
        while heap and not heap[0][2].pending:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf
