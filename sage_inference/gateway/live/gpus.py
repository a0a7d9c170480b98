"""Memory and use of the GPUs, read on a thread while somebody watches."""

from __future__ import annotations

import asyncio
from typing import Any

from sage_inference.engines.managed.gpus import GpuUse, gpu_use

_MIB = 1 << 20
_PATIENCE_S = 0.5


class GpuReadings:
    """The last reading. A driver that hangs holds up one thread, and never the gateway."""

    def __init__(self) -> None:
        self._last: list[GpuUse] = []
        self._reading: asyncio.Future[list[GpuUse]] | None = None
        self._none = False  # this machine has no GPU that NVML knows

    async def fresh(self) -> list[GpuUse]:
        """A new reading, or the last one while the driver hangs."""
        self.documents()
        if self._reading is not None:
            await asyncio.wait((self._reading,), timeout=_PATIENCE_S)
            self.documents()
        return self._last

    def documents(self) -> list[dict[str, Any]]:
        """The last reading. Starts the next one."""
        reading = self._reading
        if reading is not None and reading.done():
            self._reading = None
            if not reading.cancelled() and reading.exception() is None:
                self._last = reading.result()
                self._none = not self._last
        if self._reading is None and not self._none:
            self._reading = asyncio.ensure_future(asyncio.to_thread(gpu_use))
        return [
            {
                "index": each.index,
                "name": each.name,
                "memory_used_mb": each.used // _MIB,
                "memory_total_mb": each.total // _MIB,
                "use_percent": each.percent,
            }
            for each in self._last
        ]
