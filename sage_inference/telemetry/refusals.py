"""The newest requests that were refused before any instance was asked, with the reason that their callers got."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from sage_inference.types import SchedulingRequest

KEPT = 100
_LONGEST = 300  # characters of a reason, which may quote what a caller sent


class Refusal(NamedTuple):
    """Times are those of the scheduler's clock. ``request`` is None if its body was not read."""

    arrived: float
    ended_at: float
    request_id: str
    route: str
    key: str
    request: SchedulingRequest | None
    status: int
    reason: str


class Refusals:
    """Keeps the newest refusals, in the order of their ends, and counts all."""

    def __init__(self) -> None:
        self._kept: deque[Refusal] = deque(maxlen=KEPT)
        self.total = 0

    def add(self, refusal: Refusal) -> None:
        self.total += 1
        self._kept.append(refusal)

    def __iter__(self) -> Iterator[Refusal]:
        return iter(self._kept)


def short(reason: str) -> str:
    return reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 1]}…"
