"""vLLM's front end for its pooling runner: one Python process, which tokenizes calls and writes their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sage_inference.simulator.clock import Clock
from sage_inference.simulator.encoder import Encoder
from sage_inference.simulator.timing import TRANSIT_MS, front_end_ms


class FrontEnd:
    """Calls pass it one at a time, before and after the encoder, which computes other calls meanwhile."""

    def __init__(self, encoder: Encoder, clock: Clock) -> None:
        self._encoder = encoder
        self._clock = clock
        self._free = asyncio.Lock()  # it serves those who wait in the order in which they came

    async def encode(self, tokens: Sequence[int]) -> None:
        """Wait until texts with these numbers of tokens are encoded and the answer is written."""
        before_ms, after_ms = front_end_ms(len(tokens), sum(tokens))
        await self._work(before_ms)
        await self._encoder.encode(tokens)
        await self._work(after_ms)
        await asyncio.sleep(self._clock.seconds(TRANSIT_MS))

    async def _work(self, milliseconds: float) -> None:
        if self._clock.instant:
            return
        if not self._free.locked():
            self._clock.start()
        async with self._free:
            await self._clock.spend(milliseconds)
