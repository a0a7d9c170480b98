"""A connection without a socket: two protocols of one event loop, joined by a pipe in memory."""

from __future__ import annotations

import asyncio
from typing import Any

HIGH_WATER = 65536  # bytes unread on the other side at which a writer has to pause


def join(left: asyncio.Protocol, right: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
    """Connect the two, as if each had connected to the other over TCP."""
    ends = End(left, loop), End(right, loop)
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    left.connection_made(ends[0])
    right.connection_made(ends[1])


class End(asyncio.Transport):
    """The transport of one side. Written bytes arrive at the other side in a later iteration of the event loop.

    As over a socket, a protocol is never called from within a call of its own.
    """

    peer: End

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = loop
        self._unread: list[bytes] = []
        self._size = 0
        self._paused = self._awake = self._ended = self._closing = self._lost = False
        self._holds_peer = False  # the peer has to pause writing

    # For the writer

    def write(self, data: Any) -> None:
        if not self._closing and data:
            self.peer._take(bytes(data))

    def close(self) -> None:
        """Close. Written bytes still arrive."""
        if not self._closing:
            self._closing = True
            self._unread.clear()
            self._loop.call_soon(self._lose)
            self.peer._end()

    def abort(self) -> None:
        """Close at once. Bytes that the peer has not read yet are lost."""
        if not self._lost:
            self.peer._unread.clear()
        self.close()

    def is_closing(self) -> bool:
        return self._closing or self.peer._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return self.peer._size

    # For the reader

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._wake()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    # The pipe

    def _take(self, data: bytes) -> None:
        if self._closing:
            return
        self._unread.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._holds_peer:
            self._holds_peer = True
            self.peer._protocol.pause_writing()
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if not self._awake and not self._paused and (self._unread or self._ended):
            self._awake = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._awake = False
        if self._paused or self._lost:
            return
        if self._unread:
            data, self._unread = b"".join(self._unread), []
            self._size = 0
            if self._holds_peer:
                self._holds_peer = False
                self.peer._protocol.resume_writing()
            self._protocol.data_received(data)
        if self._ended and not self._unread and not self._paused:
            self._closing = True
            self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(None)
