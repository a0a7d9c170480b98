"""Measures the generator itself: its CPU time, and the delays of its event loop."""

from __future__ import annotations

import asyncio
import time

from sage_inference.bench.precise_timer import PreciseTimer
from sage_inference.bench.samples import samples

_TICK_S = 0.02


class Watch:
    """Watches this process from ``start`` on.

    ``lag`` are the loop's delays for events at known moments. Answers are read with the same delays.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = PreciseTimer(loop, self._tick)
        self._due = 0.0
        self._began = self._cpu = 0.0
        self.lag = samples()

    def start(self) -> None:
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._arm()

    def stop(self) -> float:
        """Stop. Returns the share of one core that was used, from 0 to 1, or a little more with a second thread."""
        self._timer.close()
        if not self._began:
            return 0.0  # all requests were sent before the measured time began
        return (time.process_time() - self._cpu) / max(time.monotonic() - self._began, 1e-9)

    def _arm(self) -> None:
        self._due = time.monotonic() + _TICK_S
        self._timer.set(self._due)

    def _tick(self) -> None:
        self.lag.append(time.monotonic() - self._due)
        self._arm()
