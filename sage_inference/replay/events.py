"""Virtual time: it jumps to the next scheduled action."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[], None]


class Events:
    """Actions in order of their time in milliseconds from the start. At equal times the first scheduled is first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Action]] = []
        self._scheduled = 0

    def at(self, ms: float, action: Action) -> None:
        self._scheduled += 1
        heappush(self._due, (max(ms, self.now), self._scheduled, action))

    def step(self) -> bool:
        """Run the next action. False if there is none."""
        if not self._due:
            return False
        self.now, _, action = heappop(self._due)
        action()
        return True


class MovableEvent:
    """One action that can be moved or cancelled. The heap keeps its stale entries, which do nothing."""

    def __init__(self, events: Events, action: Action) -> None:
        self._events = events
        self._action = action
        self._set = 0

    def set(self, ms: float) -> None:
        self._set += 1
        mine = self._set
        self._events.at(ms, lambda: self._action() if self._set == mine else None)

    def clear(self) -> None:
        self._set += 1
