"""One turn of the event loop: what arrived is handled, then what was written is sent, then the books are kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sage_inference.wire.message import Data

# Long pieces go through at once: it is worth its own system calls, and would be out of the caches at the turn's end.
_LONG = 16384
_MOST_BYTES = 262144  # gathered, before they are sent in the midst of a turn


class Reader(Protocol):
    """An ``asyncio.Protocol`` that knows its transport."""

    @property
    def transport(self) -> asyncio.Transport: ...

    def data_received(self, data: bytes) -> None: ...


class LoopBatch:
    """Gathers work of one kind, to do it in a row.

    What nobody waits for is left for the turn's end by ``later``. From then on the rest waits for that, too: first all
    that arrived is handled, then all that this wrote is sent, then all notes are made. A processor that reads from
    forty sockets, then handles forty messages, then writes to forty sockets needs two thirds of the time that it
    takes to go round forty times, for each time it finds its code and data in the caches (cohort scheduling: Larus
    and Parkes, "Using Cohort Scheduling to Enhance Server Performance", USENIX 2002). What comes first in a turn is
    handled and written at once: a request that comes alone waits for nothing.
    """

    __slots__ = ("_call_soon", "_gathered", "_notes", "_reads", "_writes", "defers_reads", "is_open")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon  # the event loop's
        self._notes: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._writes: deque[tuple[asyncio.WriteTransport, Data]] = deque()
        self._gathered = 0
        self._reads: deque[tuple[Reader, bytes]] = deque()
        self.defers_reads = False  # whether what arrives is to be given to ``defer``
        self.is_open = False  # whether what is written waits; where not, ``write`` may be passed by

    def later(self, note: Callable[..., None], *arguments: Any) -> None:
        """Call ``note`` at the end of the turn, after what was noted before."""
        if not self.is_open:
            self.is_open = self.defers_reads = True
            self._call_soon(self._end)
        self._notes.append((note, arguments))

    def defer(self, protocol: Reader, data: bytes) -> None:
        """``protocol`` gets the data at the end of the turn, or before by ``read_on``; much of it gets it now."""
        if len(data) <= _LONG or any(waits is protocol for waits, _ in self._reads):
            self._reads.append((protocol, data))
            return
        self.defers_reads = False
        try:
            protocol.data_received(data)
        finally:
            self.defers_reads = True

    def read_on(self) -> None:
        """Hand out what arrived: before any report that a connection is lost."""
        self.defers_reads = False
        reads = self._reads
        while reads:
            protocol, data = reads.popleft()
            try:
                protocol.data_received(data)
            except Exception as error:  # as the event loop does; whose turn it is has no part in it
                protocol.transport.abort()
                self.later(_report, error)

    def write(self, transport: asyncio.WriteTransport, data: Data) -> None:
        """Write within this turn, in the order of the calls; lost if the transport is closed otherwise than here."""
        if not self.is_open:
            transport.write(data)
            return
        self._writes.append((transport, data))
        self._gathered += len(data)
        if self._gathered > _MOST_BYTES or len(data) > _LONG:
            self.flush()

    def writelines(self, transport: asyncio.WriteTransport, pieces: Iterable[Data]) -> None:
        """The same for much at once, which is not gathered."""
        self.flush()
        transport.writelines(pieces)

    def close(self, transport: asyncio.WriteTransport) -> None:
        """Close it once all that was written is on its way."""
        self.flush()
        transport.close()

    def flush(self) -> None:
        """Send what was gathered."""
        writes = self._writes
        self._gathered = 0
        while writes:
            transport, data = writes.popleft()
            try:
                if not transport.is_closing():  # else uvloop may raise, and the others would wait
                    transport.write(data)
            except Exception as error:  # what it misses, nothing behind it makes whole
                transport.abort()
                self.later(_report, error)

    def _end(self) -> None:
        notes = self._notes
        try:
            self.read_on()
            self.flush()
            while notes:
                note, arguments = notes.popleft()
                note(*arguments)
        finally:
            if notes:  # one of them failed: that is no reason to lose the others
                self._call_soon(self._end)
            else:
                self.is_open = False
                self.flush()


def _report(error: Exception) -> None:
    raise error
