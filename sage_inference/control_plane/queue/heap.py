"""A heap whose entries may leave from its middle."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class HeapPlace(Generic[T]):
    """The place of an entry in a heap. ``entry`` is None after it left."""

    __slots__ = ("entry", "key", "number")

    def __init__(self, key: float, number: int, entry: T) -> None:
        self.key = key
        self.number = number
        self.entry: T | None = entry

    def __lt__(self, other: HeapPlace[T]) -> bool:
        return self.key < other.key if self.key != other.key else self.number < other.number


class Heap(Generic[T]):
    """Least key first, equal keys in order of arrival.

    A place in the middle gives up its entry at once. The empty place is removed when it becomes the first, or when empty
    places outnumber the others.
    """

    __slots__ = ("_live", "_number", "_places")

    def __init__(self) -> None:
        self._places: list[HeapPlace[T]] = []
        self._live = 0
        self._number = 0

    def __len__(self) -> int:
        return self._live

    def __iter__(self) -> Iterator[T]:
        """The entries, in no order."""
        return (place.entry for place in self._places if place.entry is not None)

    def push(self, key: float, entry: T) -> HeapPlace[T]:
        self._number += 1
        self._live += 1
        place = HeapPlace(key, self._number, entry)
        heapq.heappush(self._places, place)
        return place

    def leave(self, place: HeapPlace[T]) -> None:
        """Remove the entry at ``place``. A second call has no effect."""
        if place.entry is None:
            return
        place.entry = None
        self._live -= 1
        if len(self._places) > 2 * self._live + 32:
            self._places = [each for each in self._places if each.entry is not None]
            heapq.heapify(self._places)

    def pop(self) -> T:
        """Remove the first entry and return it. Raises ``IndexError`` if there is none."""
        place = self._first()
        if place is None or place.entry is None:
            raise IndexError("pop from an empty heap")
        entry = place.entry
        self.leave(place)
        return entry

    def first(self) -> T | None:
        place = self._first()
        return place.entry if place else None

    def first_key(self) -> float:
        """The least key; infinite if there is none."""
        place = self._first()
        return place.key if place else float("inf")

    def _first(self) -> HeapPlace[T] | None:
        places = self._places
        while places:
            if places[0].entry is not None:
                return places[0]
            heapq.heappop(places)
        return None
