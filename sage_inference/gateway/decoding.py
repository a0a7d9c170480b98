"""The thread that decodes compressed bodies, and its turns."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Protocol


class Coded(Protocol):
    """A body that is decoded turn by turn."""

    @property
    def is_over(self) -> bool: ...

    def decode(self) -> list[bytes]: ...

    def decoded(self, turn: asyncio.Future[list[bytes]]) -> None: ...

    def no_thread(self, error: RuntimeError) -> None: ...


class Decoding:
    """Gives bodies their turns. At most one of the loop's threads is in use."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Coded] = deque()
        self._busy = False

    def add(self, body: Coded) -> None:
        self._waiting.append(body)
        self._next()

    def _next(self) -> None:
        while self._waiting and not self._busy:
            body = self._waiting.popleft()
            if body.is_over:
                continue
            try:
                turn = self._loop.run_in_executor(None, body.decode)
            except RuntimeError as error:
                # The system grants no thread now, but may grant one to the next body.
                body.no_thread(error)
            else:
                self._busy = True
                turn.add_done_callback(partial(self._done, body))

    def _done(self, body: Coded, turn: asyncio.Future[list[bytes]]) -> None:
        self._busy = False
        self._next()  # first, so that the thread works while the loop handles this result
        if not turn.cancelled():
            turn.exception()  # asyncio logs an exception that was not retrieved, as when the body is of no use any more
            body.decoded(turn)
