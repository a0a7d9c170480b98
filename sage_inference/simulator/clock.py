"""Simulated time, and its speed relative to real time."""

from __future__ import annotations

import asyncio

_MOST_CATCH_UP_S = 0.02  # makes up for the event loop's timers, which count whole milliseconds


class Clock:
    """``speed`` 1 is real time, 10 is ten times as fast, and with 0 nothing takes any time."""

    def __init__(self, speed: float) -> None:
        self.instant = speed == 0
        self._seconds_per_ms = 0.001 / speed if speed else 0.0
        self._due = 0.0

    def seconds(self, milliseconds: float) -> float:
        """The real seconds of ``milliseconds`` of the engine."""
        return milliseconds * self._seconds_per_ms

    async def spend(self, milliseconds: float) -> None:
        """Wait for an engine's step. A late step shortens the next one, so that steps in a row keep to the clock."""
        loop = asyncio.get_running_loop()
        self._due = max(self._due, loop.time() - _MOST_CATCH_UP_S) + self.seconds(milliseconds)
        await asyncio.sleep(max(0.0, self._due - loop.time()))

    def start(self) -> None:
        """Begin work after idleness, without a delay to make up for."""
        self._due = asyncio.get_running_loop().time()
