"""The body of an answer on its way to the caller, piece by piece; what came as a whole needs none of this."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from sage_inference.engines.answer import Piece
from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.gateway.relay.wheel import Timed

if TYPE_CHECKING:
    from sage_inference.engines.connection import EngineConnection
    from sage_inference.gateway.relay.exchange import Exchange
    from sage_inference.gateway.state import Gateway
    from sage_inference.types import ExecutionInstance


class Caller(Timed, Protocol):
    """The caller's side of the connection, as an exchange sees it; it is also what the exchange's time runs on."""

    transport: asyncio.Transport

    def write(self, data: Piece, /) -> None: ...

    def writelines(self, pieces: Iterable[Piece], /) -> None: ...

    def ended(self, exchange: Exchange, close: bool) -> None: ...

    @property
    def reads_slowly(self) -> bool: ...


class Delivery:
    """Writes a head and what belongs to it, ``chunked`` or not. It is what the coalescer holds, if it is fast.

    ``chunks`` counts those after the first, which with engines has the role and no token.
    """

    __slots__ = (
        "_caller",
        "_connection",
        "_gateway",
        "_idle_s",
        "_last",
        "_look_at",
        "_passed_at",
        "_start",
        "_tell_gap",
        "_wheel",
        "chunked",
        "chunks",
        "holds",
        "looked_at",
    )

    def __init__(
        self,
        gateway: Gateway,
        instance: ExecutionInstance,
        connection: EngineConnection | None,
        caller: Caller,
        start: bytes,
        chunked: bool,
    ) -> None:
        self._gateway = gateway
        self._connection = connection
        self._caller = caller
        self._start = start  # the head, until it is written
        self.chunked = chunked
        self._wheel = gateway.wheel
        self._idle_s = gateway.timeouts.stream_idle_s
        self._tell_gap = gateway.manager.gap_listener(instance)
        self._passed_at = 0.0
        self._last = b""  # the last chunk, as it was written
        self.chunks = 0
        # The count of chunks at which to look whether it is a fast stream: see ``coalescing``.
        self._look_at = 0
        self.holds, self.looked_at = 0, 0.0

    def send(self, piece: Piece) -> None:
        """A piece that is not the last."""
        if self._start:
            self._write_first(self._framed(piece))
            self._wheel.set(self._caller, self._idle_s)
        elif self.chunked:
            self.pass_on(_chunk(piece))
        else:
            self._caller.write(piece)
            self._wheel.set(self._caller, self._idle_s)

    def pass_on(self, chunk: bytes) -> None:
        """A token of a stream, by far the most frequent event: one write, and no timer is moved."""
        caller, turn = self._caller, self._gateway.turn
        if turn.is_open:
            turn.write(caller.transport, chunk)
        else:
            caller.transport.write(chunk)
        caller.deadline = self._wheel.now + self._idle_s
        self._last = chunk
        self.chunks = chunks = self.chunks + 1
        if chunks >= self._look_at:
            self._look_at = self._gateway.coalescer.look(self)
        if self._tell_gap is not None:
            now = self._gateway.clock()
            if self._passed_at > self._gateway.stalled_at:
                self._tell_gap(now - self._passed_at)
            self._passed_at = now

    def end(self, piece: Piece) -> None:
        """The last piece, or nothing more."""
        self._connection = None  # it may serve another already
        if self.chunked:
            piece = _chunk(piece) + b"0\r\n\r\n"
        if self._start:
            self._write_first(piece)
        elif piece:
            self._caller.write(piece)

    def cut(self, event: bytes) -> None:
        """Nothing more comes, though it should; ``event`` says so."""
        self._write_first(self._framed(event))

    def hold(self) -> None:
        """It is faster than anyone reads: let its chunks gather in the socket."""
        self.chunks += max(0, self._last.count(b"\n\n") - 1)  # each event of a piece may be a token
        if self._connection is not None:
            self._connection.pause()

    def release(self) -> None:
        if self._connection is not None and not self._caller.reads_slowly:
            self._connection.resume()

    @property
    def last(self) -> bytes:
        """What the last chunk said, for an end that belongs to it."""
        return self._last[self._last.find(b"\n") + 1 : -2]

    def _framed(self, piece: Piece) -> Piece:
        return _chunk(piece) if self.chunked else piece

    def _write_first(self, piece: Piece) -> None:
        start, self._start = self._start, b""
        if len(piece) < JOIN_BYTES:
            self._caller.write(start + piece)
        else:  # one system call for both, and the piece is not copied
            self._caller.writelines((start, piece))


def _chunk(piece: Piece) -> bytes:
    """Nothing of nothing: an empty chunk is the last."""
    return b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if piece else b""
