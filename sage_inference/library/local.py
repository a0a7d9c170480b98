"""Gateways without a socket, which only this process uses. One event loop in one thread runs them."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sage_inference.config.settings import Settings
from sage_inference.gateway.in_process import InProcessClient
from sage_inference.server import RunningGateway, new_event_loop

T = TypeVar("T")


@dataclass(eq=False)
class LocalGateway:
    """A running gateway, shared by all clients with the same settings. See ``use`` and ``leave``."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    running: RunningGateway
    over: asyncio.Event
    ended: Future[None]
    users: int = 0

    @property
    def callers(self) -> InProcessClient:
        return self.running.callers

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the gateway's event loop. Cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


class _Process:
    """The gateways of this process. They share one event loop and thread, which exist only while a gateway does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.gateways: list[LocalGateway] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def use(self, settings: Settings) -> LocalGateway:
        with self.lock:
            found = next((one for one in self.gateways if one.settings == settings), None)
            if found is None:
                found = self._started(settings)
                self.gateways.append(found)
            found.users += 1
            return found

    def leave(self, gateway: LocalGateway) -> None:
        with self.lock:
            gateway.users -= 1
            if gateway.users == 0 and gateway in self.gateways:
                self._end(gateway)

    def close(self) -> None:
        with self.lock:
            for gateway in list(self.gateways):
                self._end(gateway)

    def _started(self, settings: Settings) -> LocalGateway:
        loop = self._running_loop()
        began: Future[LocalGateway] = Future()
        ended = asyncio.run_coroutine_threadsafe(_keep(settings, began), loop)
        ended.add_done_callback(lambda over: _failed(began, over))
        try:
            gateway = began.result()
        except BaseException:
            self._stop_loop()
            raise
        gateway.ended = ended
        return gateway

    def _end(self, gateway: LocalGateway) -> None:
        self.gateways.remove(gateway)
        gateway.loop.call_soon_threadsafe(gateway.over.set)
        gateway.ended.result()
        self._stop_loop()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = new_event_loop()
            self._thread = threading.Thread(
                target=_run_loop, args=(loop,), name="sage-inference-local", daemon=True
            )
            self._thread.start()
        return self._loop

    def _stop_loop(self) -> None:
        if self.gateways or self._loop is None or self._thread is None:
            return
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _keep(settings: Settings, began: Future[LocalGateway]) -> None:
    over = asyncio.Event()
    running = RunningGateway(settings)
    async with running.working():
        began.set_result(LocalGateway(settings, asyncio.get_running_loop(), running, over, Future()))
        await over.wait()
        running.callers.close()


def _failed(began: Future[LocalGateway], over: Future[None]) -> None:
    error = over.exception()
    if error is not None and not began.done():
        began.set_exception(error)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


_process = _Process()


def use(settings: Settings) -> LocalGateway:
    """The running gateway of these settings. Its engines have been probed, or a second has passed."""
    return _process.use(settings)


def leave(gateway: LocalGateway) -> None:
    """Release the gateway; the last release stops it."""
    _process.leave(gateway)


def _forget() -> None:
    """Forget the gateways in a forked child, because the parent's threads do not run there."""
    global _process
    _process = _Process()


def _close() -> None:
    _process.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
