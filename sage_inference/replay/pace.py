"""A processor's progress while its speed changes."""

from __future__ import annotations


class Pace:
    """Work is counted in milliseconds at speed 1."""

    __slots__ = ("_since", "_work", "speed")

    def __init__(self) -> None:
        self.speed = 1.0
        self._since = 0.0
        self._work = 0.0

    def work(self, now: float) -> float:
        return self._work + (now - self._since) * self.speed

    def when(self, work: float) -> float:
        """The time at which ``work`` will be done, at the present speed."""
        return self._since + (work - self._work) / self.speed

    def change(self, now: float, speed: float) -> None:
        self._work, self._since, self.speed = self.work(now), now, speed
