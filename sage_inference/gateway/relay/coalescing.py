"""Reads streams that are faster than any reader less often, so that their chunks travel in larger pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from sage_inference.wire.isolation import report

RATE = 500.0  # chunks/s above which a stream is paused: nobody reads so fast
WINDOW = 8  # chunks over which its rate is measured
PAUSE_S = 0.008  # one frame of a fast display
PAUSES = 64  # pauses of a fast stream before its rate is measured again


class Stream(Protocol):
    """A stream under way. Only the coalescer writes ``pauses_left`` and ``looked_at``, which are zero at first."""

    chunks: int
    pauses_left: int
    looked_at: float

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Coalescer:
    """Lets the chunks of fast streams gather in their sockets for ``PAUSE_S``, as network cards coalesce interrupts.

    A chunk costs a read and a write here, and again at its caller, whatever its size. A stream that sent
    ``WINDOW`` chunks at more than ``RATE`` is not read for ``PAUSE_S`` after each piece. All other streams, and the
    first chunks of every stream, are passed on as they come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._loop = loop
        self.clock = clock
        self._paused: list[Stream] = []

    def look(self, stream: Stream) -> int:
        """Pause the stream if it is fast. Returns the count of its chunks at which to call this again."""
        now = self.clock()
        # While it is paused its chunks come in one piece, so their rate cannot be measured: count down instead.
        if stream.pauses_left:
            stream.pauses_left -= 1
        elif now - stream.looked_at < WINDOW / RATE:
            stream.pauses_left = PAUSES
        stream.looked_at = now
        if not stream.pauses_left:
            return stream.chunks + WINDOW
        self._pause(stream)
        return stream.chunks + 1

    @property
    def any_paused(self) -> bool:
        """Whether some stream is paused now."""
        return bool(self._paused)

    def _pause(self, stream: Stream) -> None:
        stream.pause()
        # One timer for all streams that are paused at once: a stream that joins later is paused for less.
        if not self._paused:
            self._loop.call_later(PAUSE_S, self._resume)
        self._paused.append(stream)

    def _resume(self) -> None:
        paused, self._paused = self._paused, []
        for stream in paused:
            try:
                stream.resume()
            except Exception as error:  # the other streams must be read again all the same
                report(error, "resuming a fast stream")
