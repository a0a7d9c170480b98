"""Prompts whose answers' first bytes come with the last, and so don't tell when they were worked off."""

from __future__ import annotations

import heapq
import itertools
import math

from sage_inference.control_plane.instances.load import Placement


class SilentPrefills:
    """They are taken to be done when their instance should be done with them; ``heap`` has the soonest first."""

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
        """When the next should be done; infinite where none is awaited."""
        heap = self.heap
        while heap and not heap[0][2].pending:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf
