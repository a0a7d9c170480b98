"""Reads streams that are faster than any reader less often, so that their chunks travel in larger pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from sage_inference.wire.isolation import report

RATE = 500.0  # chunks/s above which a stream is held: nobody reads so fast
LOOK = 8  # chunks over which its rate is measured
HOLD_S = 0.008  # one frame of a fast display
HOLDS = 64  # holds of a fast stream before its rate is measured again


class Stream(Protocol):
    """A stream under way. Only the coalescer writes ``holds`` and ``looked_at``, which are zero at first."""

    chunks: int
    holds: int
    looked_at: float

    def hold(self) -> None: ...

    def release(self) -> None: ...


class Coalescer:
    """Lets the chunks of fast streams gather in their sockets for ``HOLD_S``, as network cards coalesce interrupts.

    A chunk costs a read and a write here, and again at its caller, whatever its size. A stream that sent
    ``LOOK`` chunks at more than ``RATE`` is not read for ``HOLD_S`` after each piece. All other streams, and the
    first chunks of every stream, are passed on as they come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self.clock = clock
        self._held: list[Stream] = []

    def look(self, stream: Stream) -> int:
        """Hold the stream if it is fast. Returns the count of its chunks at which to call this again."""
        now = self.clock()
        # While it is held its chunks come in one piece, so their rate cannot be measured: count down instead.
        if stream.holds:
            stream.holds -= 1
        elif now - stream.looked_at < LOOK / RATE:
            stream.holds = HOLDS
        stream.looked_at = now
        if not stream.holds:
            return stream.chunks + LOOK
        self._hold(stream)
        return stream.chunks + 1

    @property
    def holding(self) -> bool:
        """Whether some stream is held now."""
        return bool(self._held)

    def _hold(self, stream: Stream) -> None:
        stream.hold()
        # One timer for all streams that are held at once: a stream that comes later is held for less.
        if not self._held:
            self._loop.call_later(HOLD_S, self._release)
        self._held.append(stream)

    def _release(self) -> None:
        held, self._held = self._held, []
        for stream in held:
            try:
                stream.release()
            except Exception as error:  # the other streams must be read again all the same
                report(error, "reading on from a fast stream")
