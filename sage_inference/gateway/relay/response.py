"""The body of an answer on its way to the caller, piece by piece; what came as a whole needs none of this."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.gateway.relay.caller import Sink
from sage_inference.gateway.relay.usage import PlainUsage, choices_in, reported
from sage_inference.wire.message import Data, StreamFormat

if TYPE_CHECKING:
    from sage_inference.engines.connection import EngineConnection
    from sage_inference.gateway.hub import Hub
    from sage_inference.types import ExecutionInstance, Usage


TAIL_BYTES = 1024  # of a stream, kept to be read at its end: its last events, its usage among them
_TAIL_PIECES = 16
_SMALL = TAIL_BYTES // _TAIL_PIECES  # bytes of a piece; of smaller ones more are kept


class ResponseWriter:
    """Writes a head and what belongs to it, ``chunked`` or not. It is what the coalescer holds, if it is fast.

    ``chunks`` counts those after the first, which with engines has the role and no token.
    """

    body_bytes: int | None = None  # of the body, so far; counted by ``CountedResponseWriter`` alone

    __slots__ = (
        "_caller",
        "_connection",
        "_gateway",
        "_keep",
        "_look_at",
        "_opening",
        "_passed_at",
        "_plain",
        "_start",
        "_tail",
        "_tell_gap",
        "_turn",
        "_wheel",
        "chunked",
        "chunks",
        "from_start",
        "holds",
        "looked_at",
    )

    def __init__(
        self,
        gateway: Hub,
        instance: ExecutionInstance,
        connection: EngineConnection | None,
        caller: Sink,
        start: bytes,
        chunked: bool,
    ) -> None:
        self._gateway = gateway
        self._connection = connection
        self._caller = caller
        self._start = start  # the head, until it is written
        self.chunked = chunked
        self._turn, self._wheel = gateway.loop_batch, gateway.wheel
        self._tell_gap = gateway.manager.gap_listener(instance)
        self._passed_at = 0.0
        # The last pieces, as they were written. References: nothing is copied while a stream goes on.
        self._tail: deque[Data] = deque(maxlen=_TAIL_PIECES)
        self._keep = self._tail.append
        self.from_start = True  # whether ``sent`` is all that was sent
        self._opening: Data = b""  # the first piece, of an event stream
        self._plain: PlainUsage | None = None  # of an answer that is no stream
        self.chunks = 0
        # The count of chunks at which to look whether it is a fast stream: see ``coalescing``.
        self._look_at = 0
        self.holds, self.looked_at = 0, 0.0

    def send(self, piece: Data) -> None:
        """A piece that is not the last."""
        if self._plain is not None:
            self._plain.add(piece)
        if self._start:
            piece = self._framed(piece)
            self._keep(piece)
            self._write_first(piece)
            self._wheel.set(self._caller, self._wheel.idle_s)
        elif self.chunked:
            self.pass_on(_chunk(piece))
        else:
            self._keep(piece)
            self._caller.write(piece)
            self._wheel.set(self._caller, self._wheel.idle_s)
        if not _SMALL < len(piece) < TAIL_BYTES:
            self._resize(len(piece))

    def pass_on(self, chunk: bytes) -> None:
        """A token of a stream, by far the most frequent event: one write, and no timer is moved."""
        caller, turn = self._caller, self._turn
        if turn.is_open:
            turn.write(caller.transport, chunk)
        else:
            caller.transport.write(chunk)
        caller.deadline = self._wheel.idle_at
        self._keep(chunk)
        self.chunks = chunks = self.chunks + 1
        if chunks >= self._look_at:
            self._look_at = self._gateway.coalescer.look(self)
            if not _SMALL < len(chunk) < TAIL_BYTES:
                self._resize(len(chunk))
        if self._tell_gap is not None:
            now = self._gateway.clock()
            if self._passed_at > self._gateway.stalled_at:
                self._tell_gap(now - self._passed_at)
            self._passed_at = now

    def end(self, piece: Data) -> None:
        """The last piece, or nothing more."""
        self._connection = None  # it may serve another already
        if self._plain is not None:
            self._plain.add(piece)
        if self.chunked:
            piece = _chunk(piece)
            self._keep(piece)
            piece += b"0\r\n\r\n"
        else:
            self._keep(piece)
        if self._start:
            self._write_first(piece)
        elif piece:
            self._caller.write(piece)

    def cut(self, event: bytes) -> None:
        """Nothing more comes, though it should; ``event`` reports that."""
        self._write_first(self._framed(event))

    def hold(self) -> None:
        """It is faster than anyone reads: let its chunks gather in the socket."""
        # Each event of a piece may be a token.
        self.chunks += max(0, bytes(self._tail[-1]).count(b"\n\n") - 1)
        if self._connection is not None:
            self._connection.pause()

    def release(self) -> None:
        if self._connection is not None and not self._caller.reads_slowly:
            self._connection.resume()

    def seek_usage(self, stream: StreamFormat, opening: Data) -> bool:
        """Whether every piece must be seen to find what the answer took; ``opening`` is the first."""
        if stream is StreamFormat.OPAQUE:
            self._plain = PlainUsage()
            return True
        if len(opening) <= TAIL_BYTES:
            self._opening = opening
        return False

    def reported(self, last: bytes) -> Usage | None:
        """The usage that the answer reports; ``last`` is its end, see ``sent``."""
        usage = reported(last)
        if usage is None:
            return reported(self._plain.text) if self._plain is not None else None
        if not usage.prompt_tokens and self._opening:
            # Anthropic's streams report the prompt in their first event, and the output in their last.
            opening = reported(bytes(self._opening))
            if opening is not None:
                usage = opening._replace(completion_tokens=usage.completion_tokens)
        return usage

    def choices(self, last: bytes) -> int:
        """How many choices a plain answer has; 0 where that is not known. ``last`` is its end, see ``sent``."""
        if self._plain is not None:
            return self._plain.choices
        return choices_in(last) if self.from_start else 0

    def sent(self) -> bytes:
        """The last bytes of the body: ``TAIL_BYTES``, or as many more as the pieces have that hold them.

        Sets ``from_start``.
        """
        tail = self._tail
        self.from_start = self.from_start and len(tail) < tail.maxlen  # type: ignore[operator]
        found: list[Data] = []
        size = 0
        for piece in reversed(tail):
            if size >= TAIL_BYTES:
                self.from_start = False
                break
            if self.chunked:  # it is one chunk: its size, its data, CRLF
                piece = piece[piece.find(b"\n") + 1 : -2]  # type: ignore[union-attr]
            found.append(piece)
            size += len(piece)
        found.reverse()
        return b"".join(found)

    def _resize(self, size: int) -> None:
        """Keep more pieces where they are so small, and fewer where one of them is enough."""
        tail = self._tail
        if size >= TAIL_BYTES:
            if len(tail) > 1:
                last = tail[-1]
                tail.clear()
                tail.append(last)
                self.from_start = False
        elif tail.maxlen == _TAIL_PIECES:
            self.from_start = self.from_start and len(tail) < _TAIL_PIECES
            self._tail = deque(tail, TAIL_BYTES)
            self._keep = self._tail.append

    def _framed(self, piece: Data) -> Data:
        return _chunk(piece) if self.chunked else piece

    def _write_first(self, piece: Data) -> None:
        start, self._start = self._start, b""
        if len(piece) < JOIN_BYTES:
            self._caller.write(start + piece)
        else:  # one system call for both, and the piece is not copied
            self._caller.writelines((start, piece))


class CountedResponseWriter(ResponseWriter):
    """Counts the bytes of the body, without their framing. Used while the access log is on."""

    __slots__ = ("body_bytes",)

    body_bytes: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.body_bytes = 0

    def send(self, piece: Data) -> None:
        if self._start or not self.chunked:  # otherwise ``pass_on`` gets it, and counts it
            self.body_bytes += len(piece)
        super().send(piece)

    def pass_on(self, chunk: bytes) -> None:
        self.body_bytes += len(chunk) - chunk.find(b"\n") - 3  # its size, its data, CRLF
        super().pass_on(chunk)

    def end(self, piece: Data) -> None:
        self.body_bytes += len(piece)
        super().end(piece)

    def cut(self, event: bytes) -> None:
        self.body_bytes += len(event)
        super().cut(event)


def _chunk(piece: Data) -> bytes:
    """Nothing of nothing: an empty chunk is the last."""
    return b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if piece else b""
