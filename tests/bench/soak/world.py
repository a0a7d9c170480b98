"""State that all callers of a run share: the gateway's port, the moments of kills, and the findings."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

_SHOWN = 40  # findings that are kept in words; all are counted


@dataclass(slots=True)
class World:
    """Moments are of ``time.monotonic``."""

    port: int
    rest_s: float = 0.0  # of a caller after a request, on average
    over: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)  # of what callers did and got, by name
    wrong: int = 0  # a text or vector that no engine gave, or that is another's, or a false end
    lost: int = 0  # no answer, or an error though an engine could have answered
    findings: list[str] = field(default_factory=list)
    killed: dict[str, list[float]] = field(default_factory=dict)

    def found_wrong(self, what: str) -> None:
        self.wrong += 1
        self._note("wrong", what)

    def found_lost(self, what: str) -> None:
        self.lost += 1
        self._note("lost", what)

    def was_killed(self, instance: str, since: float) -> bool:
        """Whether the engine was killed after ``since``: an answer that it was writing may be cut."""
        return any(moment >= since for moment in self.killed.get(instance, ()))

    async def rest(self, rng: random.Random) -> None:
        """Wait as a caller does after a request."""
        await self.pause(rng.expovariate(1 / self.rest_s) if self.rest_s else 0.0)

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the run's end."""
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            pass

    def _note(self, kind: str, what: str) -> None:
        if len(self.findings) < _SHOWN:
            self.findings.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {kind}: {what}")
