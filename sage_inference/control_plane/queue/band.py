"""Requests of one band. The tenant that was served least is next, with the first of its requests in order."""

from __future__ import annotations

from collections.abc import Iterator

from sage_inference.control_plane.accounting.tenants import TenantCounters
from sage_inference.control_plane.queue.heap import Heap, HeapPlace
from sage_inference.control_plane.submission import Waiting


class _Line:
    """One tenant's requests, and its place among the tenants."""

    __slots__ = ("heap", "rank", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.heap: Heap[Waiting] = Heap()
        self.rank: HeapPlace[_Line] | None = None


class Band:
    def __init__(self, counters: TenantCounters) -> None:
        self._counters = counters
        self._lines: dict[str, _Line] = {}
        self._ranks: Heap[_Line] = Heap()
        self._seniors: Heap[Waiting] = Heap()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._seniors)

    def add(self, waiting: Waiting, key: float) -> None:
        tenant = waiting.request.tenant
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(tenant)
            self._queue(line)
        waiting.spot = line.heap.push(key, waiting)
        waiting.senior = self._seniors.push(waiting.seniority, waiting)

    def remove(self, waiting: Waiting) -> None:
        line = self._lines[waiting.request.tenant]
        assert waiting.spot is not None
        assert waiting.senior is not None
        line.heap.leave(waiting.spot)
        self._seniors.leave(waiting.senior)
        if not line.heap:
            del self._lines[line.tenant]
            assert line.rank is not None
            self._ranks.leave(line.rank)

    def next(self) -> Waiting | None:
        line = self._least()
        return line.heap.first() if line else None

    def least(self) -> float:
        """The lowest counter among the tenants of the band; infinite if there are none."""
        return self._counters.of(line.tenant) if (line := self._least()) else float("inf")

    def senior(self) -> Waiting | None:
        """The request with the least seniority."""
        return self._seniors.first()

    def seniority(self) -> float:
        """The least seniority; infinite if the band is empty."""
        return self._seniors.first_key()

    def _least(self) -> _Line | None:
        while (line := self._ranks.first()) is not None:
            if self._ranks.first_key() >= self._counters.of(line.tenant):
                return line
            # Counters only grow. A tenant whose counter grew since it was queued is queued again.
            assert line.rank is not None
            self._ranks.leave(line.rank)
            self._queue(line)
        return None

    def _queue(self, line: _Line) -> None:
        line.rank = self._ranks.push(self._counters.of(line.tenant), line)
