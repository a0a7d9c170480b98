"""What the generator itself used and missed: its own CPU time, and how late its event loop was."""

from __future__ import annotations

import asyncio
import time

from sage_inference.bench.samples import samples

_TICK_S = 0.02


class Watch:
    """Looks at this process from ``start`` on."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lag = samples()
        self._began = self._cpu = 0.0

    def start(self) -> None:
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._arm()

    def stop(self) -> float:
        """The share of one core that was used, 0 to 1 (and a little more where a second thread ran)."""
        if self._timer is not None:
            self._timer.cancel()
        return (time.process_time() - self._cpu) / max(time.monotonic() - self._began, 1e-9)

    def _arm(self) -> None:
        self._due = time.monotonic() + _TICK_S
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self.lag.append(max(0.0, time.monotonic() - self._due))
        self._arm()
