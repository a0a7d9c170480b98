"""One iteration of the event loop in three phases: handle all reads, then send all writes, then do the notes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sage_inference.wire.message import Data

# Long pieces are not deferred: they are worth a system call of their own, and would have left the caches by the end.
_LONG = 16384
_MOST_BYTES = 262144  # with more bytes gathered, all are sent at once


class Reader(Protocol):
    """An ``asyncio.Protocol`` that knows its transport."""

    @property
    def transport(self) -> asyncio.Transport: ...

    def data_received(self, data: bytes) -> None: ...


class LoopBatch:
    """Gathers work of one kind within an iteration of the event loop, to do it in a row.

    The first message of an iteration is handled and its bytes are written at once, so a request that comes alone
    waits for nothing. ``later`` takes work that nobody waits for. From then on, the rest of the iteration is gathered
    too: at its end all reads are handled, then all that they wrote is sent, then the notes are done.

    A processor that reads from forty sockets, then handles forty messages, then writes to forty sockets needs two
    thirds of the time of forty rounds of all three, because each phase finds its code and data in the caches (cohort
    scheduling: Larus and Parkes, "Using Cohort Scheduling to Enhance Server Performance", USENIX 2002).
    """

    __slots__ = ("_call_soon", "_gathered", "_notes", "_reads", "_writes", "defers_reads", "is_open")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon  # the event loop's
        self._notes: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._writes: deque[tuple[asyncio.WriteTransport, Data]] = deque()
        self._gathered = 0
        self._reads: deque[tuple[Reader, bytes]] = deque()
        # Protocols and writers read these before a call, which saves the call for the first message.
        self.defers_reads = False  # whether a protocol has to pass what it reads to ``defer``
        self.is_open = False  # whether writes are gathered; if not, a transport may be written to directly

    def later(self, note: Callable[..., None], *arguments: Any) -> None:
        """Call ``note`` at the end of the iteration, after the notes before it."""
        if not self.is_open:
            self.is_open = self.defers_reads = True
            self._call_soon(self._end)
        self._notes.append((note, arguments))

    def defer(self, protocol: Reader, data: bytes) -> None:
        """Pass the data to ``protocol`` at the end of the iteration, or sooner by ``read_on``; long data at once."""
        if len(data) <= _LONG or any(waits is protocol for waits, _ in self._reads):
            self._reads.append((protocol, data))  # also long data, behind data of the same protocol
            return
        self.defers_reads = False
        try:
            protocol.data_received(data)
        finally:
            self.defers_reads = True

    def read_on(self) -> None:
        """Handle the deferred reads. Must precede the report that a connection is lost."""
        self.defers_reads = False
        reads = self._reads
        while reads:
            protocol, data = reads.popleft()
            try:
                protocol.data_received(data)
            except Exception as error:  # ends this connection only, as in the event loop itself
                protocol.transport.abort()
                self.later(_report, error)

    def write(self, transport: asyncio.WriteTransport, data: Data) -> None:
        """Write within this iteration, in the order of the calls.

        The data is lost if the transport is closed by another way than ``close``.
        """
        if not self.is_open:
            transport.write(data)
            return
        self._writes.append((transport, data))
        self._gathered = gathered = self._gathered + len(data)
        if gathered > _MOST_BYTES or len(data) > _LONG:
            self.flush()

    def writelines(self, transport: asyncio.WriteTransport, pieces: Iterable[Data]) -> None:
        """Write several pieces at once. They are not gathered, because they are long."""
        self.flush()
        transport.writelines(pieces)

    def close(self, transport: asyncio.WriteTransport) -> None:
        """Close the transport behind all that was written."""
        self.flush()
        transport.close()

    def flush(self) -> None:
        """Send what was gathered."""
        writes = self._writes
        self._gathered = 0
        while writes:
            transport, data = writes.popleft()
            try:
                if not transport.is_closing():  # otherwise uvloop may raise
                    transport.write(data)
            except Exception as error:  # without these bytes, all that follow would be read wrong
                transport.abort()
                self.later(_report, error)

    def _end(self) -> None:
        notes = self._notes
        try:
            if self._reads:
                self.read_on()
            else:  # without its call, because most iterations of a gateway with little work deferred nothing
                self.defers_reads = False
            if self._writes:
                self.flush()
            while notes:
                note, arguments = notes.popleft()
                note(*arguments)
        finally:
            if notes:  # one of them failed, and the others must not be lost
                self._call_soon(self._end)
            else:
                self.is_open = False
                if self._writes:
                    self.flush()


def _report(error: Exception) -> None:
    raise error
