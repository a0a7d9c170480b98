"""The signals that a running gateway follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from typing import Protocol

# Between a SIGHUP and a second check, because a shell may forward it before its terminal is gone.
SETTLE_S = 1.0

log = logging.getLogger("sage_inference.server")


class Hangup(Protocol):
    """The meaning of a SIGHUP."""

    @property
    def ignored(self) -> bool:
        """True if SIGHUP must have no effect."""

    def terminal_is_gone(self) -> bool:
        """True if SIGHUP came because the gateway's terminal was closed."""


class Stoppable(Protocol):
    """A running gateway."""

    @property
    def draining(self) -> bool: ...

    def stop(self, *, at_once: bool = False) -> None: ...

    def try_reload(self) -> None: ...


@contextlib.asynccontextmanager
async def following_signals(running: Stoppable, hangup: Hangup | None) -> AsyncIterator[None]:
    """Within this context, SIGTERM and SIGINT stop, and SIGHUP reloads. The closing of the terminal stops, too."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        running.stop(at_once=running.draining)

    def stop_without_terminal() -> bool:
        gone = hangup is not None and hangup.terminal_is_gone()
        if gone:
            log.info("the terminal was closed")
            running.stop()
        return gone

    def hang_up() -> None:
        if not stop_without_terminal():
            running.try_reload()
            loop.call_later(SETTLE_S, stop_without_terminal)

    handlers = {signal.SIGTERM: running.stop, signal.SIGINT: interrupt, signal.SIGHUP: hang_up}
    if hangup is not None and hangup.ignored:
        del handlers[signal.SIGHUP]
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
