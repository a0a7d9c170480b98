"""Callers that send the same request again whenever its answer ends, and the span of time in which they are measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from tests.bench.load.connection import BROKEN, Connection, mark

_WARM_UP_S = 1.0


class Repeating(Connection):
    """``reset`` begins new counts. ``answered`` is called at the end of each good answer."""

    def __init__(self, asked: bytes) -> None:
        super().__init__()
        self._asked = asked
        self._stopped = False
        self.failures = 0
        self.reset()

    def reset(self) -> None:
        raise NotImplementedError

    def answered(self) -> None:
        """An answer ended in order. Nothing is counted here."""

    def begin(self) -> None:
        self.send(self._asked)

    def stop(self) -> None:
        self._stopped = True
        self.transport.abort()

    def ended(self, status: int) -> None:
        if self._stopped:
            return
        if status == 200:
            self.answered()
        else:
            self.failures += 1
        if status != BROKEN and not self.transport.is_closing():
            self.begin()


async def measured(callers: Sequence[Repeating], seconds: float) -> float:
    """Let them begin, and count anew when they are warm. Returns the seconds that were measured, about ``seconds``."""
    for caller in callers:
        caller.begin()
    await asyncio.sleep(_WARM_UP_S)
    for caller in callers:
        caller.reset()
    mark()
    began = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    mark()
    return took
