"""The part of each tenant in a bounded queue, and the choice of requests that leave when it is full."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from sage_inference.control_plane.accounting.tenants import TenantCounters

T = TypeVar("T", bound=Hashable)

_REQUESTS, _BYTES = 0, 1
DISPLACED = "the queue is full, and most of what waits is of this caller; try again later"


class _Holding(Generic[T]):
    """One tenant's entries, by priority and in order of arrival, each with its size."""

    __slots__ = ("levels", "used")

    def __init__(self) -> None:
        self.used = [0, 0]  # requests, bytes
        self.levels: dict[int, dict[T, int]] = {}

    def leavers(self) -> Iterator[tuple[T, int]]:
        """The least important first, and of these the newest."""
        for level in sorted(self.levels, reverse=True):
            yield from reversed(self.levels[level].items())


class _Leaving(Generic[T]):
    """A tenant in the plan of which entries leave. None has left yet."""

    __slots__ = ("entries", "used", "weight")

    def __init__(self, holding: _Holding[T], weight: float) -> None:
        self.used = list(holding.used)
        self.weight = weight
        self.entries = holding.leavers()


class Shares(Generic[T]):
    """Fair division of a queue that is full.

    A tenant that fills the queue displaces itself first. A new request takes the place of the newest request of the tenant
    with the most, if its own tenant still has less with it. So a tenant with no more than its share is neither refused nor
    displaced; its share is the bound, divided among the waiting tenants by their weights. Priorities decide only within a
    tenant, because callers choose them.
    """

    def __init__(self, counters: TenantCounters) -> None:
        self._counters = counters  # has the weights
        self._holdings: dict[str, _Holding[T]] = {}
        self._where: dict[T, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._where)

    def add(self, entry: T, tenant: str, priority: int, size: int) -> None:
        holding = self._holdings.get(tenant)
        if holding is None:
            holding = self._holdings[tenant] = _Holding()
        holding.used[_REQUESTS] += 1
        holding.used[_BYTES] += size
        holding.levels.setdefault(priority, {})[entry] = size
        self._where[entry] = tenant, priority

    def remove(self, entry: T) -> None:
        """The entry waits no longer. It need not be here."""
        place = self._where.pop(entry, None)
        if place is None:
            return
        tenant, priority = place
        holding = self._holdings[tenant]
        level = holding.levels[priority]
        holding.used[_REQUESTS] -= 1
        holding.used[_BYTES] -= level.pop(entry)
        if not level:
            del holding.levels[priority]
        if not holding.used[_REQUESTS]:
            del self._holdings[tenant]

    def displaced(self, tenant: str, size: int, over_requests: int, over_bytes: int) -> list[T] | None:
        """The requests that leave for a new one of this ``tenant`` and ``size``; None if the new one has to leave.

        With the new request the queue would be ``over_requests`` and ``over_bytes`` over its bounds. If a bound was
        lowered, no more requests leave than the new one needs.
        """
        own = self._holdings.get(tenant)
        mine = own.used if own else (0, 0)
        weight = self._weight(tenant)
        others = [
            _Leaving(each, self._weight(name)) for name, each in self._holdings.items() if each is not own
        ]
        over, leave = [min(over_requests, 1), min(over_bytes, size)], []
        for what, asked in ((_REQUESTS, 1), (_BYTES, size)):
            if over[what] <= 0:
                continue
            with_it = (mine[what] + asked) / weight
            most = [(-each.used[what] / each.weight, number) for number, each in enumerate(others)]
            heapq.heapify(most)
            while over[what] > 0:
                if not most or -most[0][0] <= with_it:
                    return None
                number = most[0][1]
                each = others[number]
                entry, freed = next(each.entries)
                leave.append(entry)
                for kind, amount in ((_REQUESTS, 1), (_BYTES, freed)):
                    each.used[kind] -= amount
                    over[kind] -= amount
                heapq.heapreplace(most, (-each.used[what] / each.weight, number))
        return leave

    def _weight(self, tenant: str) -> float:
        return self._counters.weights.get(tenant, 1.0)
