"""The socket of a serving gateway, as the thread uses it that passes it to a successor."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from sage_inference.daemon.bind import bind

if TYPE_CHECKING:
    from sage_inference.server import RunningGateway

_LOOP_S = 10.0  # for the event loop to run a function for another thread


class ServingSocket:
    """The running gateway's socket, as other threads may use it."""

    def __init__(self, running: RunningGateway) -> None:
        self.sock = running.sock
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._address = self.sock.getsockname()[:2]

    def release(self) -> None:
        self._await(self._release())

    def resume(self) -> None:
        self.sock = bind(*self._address)
        self._await(self._running.resume(self.sock))

    async def _release(self) -> None:
        self._running.release()

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LOOP_S)
