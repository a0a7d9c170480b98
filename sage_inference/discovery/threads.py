"""Calls that may block for ever: of file systems and of resolvers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sage_inference.discovery.source import SourceError

T = TypeVar("T")


class BlockingCall:
    """Makes one call at a time, each on a thread that does not keep the process alive.

    The threads of the event loop's pool would: a stop waits for them. A call that hangs is not made a second time
    beside it, because each would take another thread.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._thread: threading.Thread | None = None

    async def of(self, call: Callable[[], T]) -> T:
        """The result of ``call``. Raises what it raises, or ``SourceError`` while an earlier one hangs."""
        if self._thread is not None and self._thread.is_alive():
            raise SourceError(f"{self._what} has not come back yet")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:
                _report(loop, future, error=error)
            else:
                _report(loop, future, result=result)

        self._thread = threading.Thread(target=run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise SourceError(f"no thread can be started: {error}") from None
        return await future


def _report(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[T],
    *,
    result: T | None = None,
    error: BaseException | None = None,
) -> None:
    def settle() -> None:
        if future.done():  # the caller left
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)
