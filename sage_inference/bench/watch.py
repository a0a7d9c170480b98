"""What the generator itself used and missed: its own CPU time, and how late its event loop was."""

from __future__ import annotations

import asyncio
import time

from sage_inference.bench.alarm import Alarm
from sage_inference.bench.samples import samples

_TICK_S = 0.02


class Watch:
    """Looks at this process from ``start`` on.

    ``lag`` is by how much the loop was late for an event whose moment was known: answers come no sooner to it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = Alarm(loop, self._tick)
        self._due = 0.0
        self._began = self._cpu = 0.0
        self.lag = samples()

    def start(self) -> None:
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._arm()

    def stop(self) -> float:
        """The share of one core that was used, 0 to 1 (and a little more where a second thread ran)."""
        self._alarm.close()
        if not self._began:
            return 0.0  # all was sent before the measured time began
        return (time.process_time() - self._cpu) / max(time.monotonic() - self._began, 1e-9)

    def _arm(self) -> None:
        self._due = time.monotonic() + _TICK_S
        self._alarm.set(self._due)

    def _tick(self) -> None:
        self.lag.append(time.monotonic() - self._due)
        self._arm()
