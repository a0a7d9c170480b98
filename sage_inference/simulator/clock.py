"""Simulated time: how fast the engine's clock runs against ours."""

from __future__ import annotations

import asyncio

_MOST_CATCH_UP_S = 0.02  # the event loop's timers are whole milliseconds; what they were late is made up for


class Clock:
    """``speed`` 1 is real time, 10 ten times as fast; 0 means that nothing takes any time."""

    def __init__(self, speed: float) -> None:
        self.instant = speed == 0
        self._seconds_per_ms = 0.001 / speed if speed else 0.0
        self._due = 0.0

    def seconds(self, milliseconds: float) -> float:
        """How long ``milliseconds`` of the engine are here."""
        return milliseconds * self._seconds_per_ms

    async def spend(self, milliseconds: float) -> None:
        """Let an engine's step pass; steps in a row keep to the clock however late each one ends."""
        loop = asyncio.get_running_loop()
        self._due = max(self._due, loop.time() - _MOST_CATCH_UP_S) + self.seconds(milliseconds)
        await asyncio.sleep(max(0.0, self._due - loop.time()))

    def start(self) -> None:
        """Work begins after idleness: nothing to catch up with."""
        self._due = asyncio.get_running_loop().time()
