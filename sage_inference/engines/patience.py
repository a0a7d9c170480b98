"""Limits on waits for engines, by a clock that counts only time in which this process ran."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_SHORTEST_S = 0.01
# Iterations of the event loop, within which an answer that already lies in the socket is read to its end.
_ITERATIONS = 10


class Patience:
    """Limits waits by ``clock``. A process that was suspended must not take that time for silence of the engine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    @property
    def now(self) -> float:
        return self._clock()

    async def within(self, seconds: float, question: Coroutine[Any, Any, T]) -> T:
        """The result of ``question``. Cancels it and raises ``TimeoutError`` when the time is up."""
        task = asyncio.ensure_future(question)
        until = self._clock() + seconds
        try:
            while not task.done() and (left := until - self._clock()) > 0:
                await asyncio.wait({task}, timeout=max(left, _SHORTEST_S))
            for _ in range(_ITERATIONS):
                if task.done():
                    break
                await asyncio.sleep(0)
            if task.done():
                return task.result()
            raise TimeoutError
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


REAL_TIME = Patience()
