"""The body of an answer on its way to the caller, piece by piece. An answer that came in one piece needs no writer."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.gateway.relay.caller import Sink
from sage_inference.gateway.relay.usage import PlainUsage, choices_in, reported
from sage_inference.wire.message import Data, StreamFormat

if TYPE_CHECKING:
    from sage_inference.control_plane.submission import Submission
    from sage_inference.engines.connection import EngineConnection
    from sage_inference.gateway.hub import Hub
    from sage_inference.types import Usage


TAIL_BYTES = 1024  # the end of a stream, kept because its last events have its usage and its outcome
_TAIL_PIECES = 16
_SMALL = TAIL_BYTES // _TAIL_PIECES  # bytes of a piece: so many pieces of this size make up the tail


class ResponseWriter:
    """Writes the head and the body of one answer, ``chunked`` or not. The coalescer pauses it while it is fast.

    ``chunks`` counts the chunks after the first. Engines send the role in the first, and no token.
    """

    body_bytes: int | None = None  # written so far; only ``CountedResponseWriter`` counts them

    __slots__ = (
        # The way from the engine to the caller.
        "_gateway",
        "_batch",
        "_wheel",
        "_connection",
        "_caller",
        # The form of the answer.
        "_start",
        "chunked",
        # Kept to be read at the end.
        "_tail",
        "_keep",
        "from_start",
        "_opening",
        "_plain",
        # The pace of the stream.
        "_on_gap",
        "_passed_at",
        "chunks",
        "_look_at",
        "pauses_left",
        "looked_at",
    )

    def __init__(
        self,
        gateway: Hub,
        submission: Submission,
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
        self._batch, self._wheel = gateway.loop_batch, gateway.wheel
        self._on_gap = gateway.scheduler.gap_listener(submission)
        self._passed_at = 0.0
        # The last pieces, as they were written. They are references: nothing is copied while a stream goes on.
        self._tail: deque[Data] = deque(maxlen=_TAIL_PIECES)
        self._keep = self._tail.append  # bound once, because it is called for every chunk
        self.from_start = True  # whether ``sent`` returns the body from its first byte on
        self._opening: Data = b""  # the first piece of an event stream
        self._plain: PlainUsage | None = None  # set for an answer that is no stream
        self.chunks = 0
        # The count of chunks at which the coalescer looks at the stream's rate again.
        self._look_at = 0
        self.pauses_left, self.looked_at = 0, 0.0

    def send(self, piece: Data) -> None:
        """Write a piece that is not the last."""
        if self._plain is not None:
            self._plain.add(piece)
        if self._start:  # the head leaves with the first piece, in one packet
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
        """Write one chunk as the engine framed it.

        The most frequent event by far, one for each token, so it costs one write and moves no timer.
        """
        caller, batch = self._caller, self._batch
        if batch.is_open:  # then writes are gathered, and sent in a row at the end of the loop's iteration
            batch.write(caller.transport, chunk)
        else:
            caller.transport.write(chunk)
        # One store. The wheel reads it only when the former deadline comes.
        caller.deadline = self._wheel.idle_at
        self._keep(chunk)
        self.chunks = chunks = self.chunks + 1
        if chunks >= self._look_at:
            self._look_at = self._gateway.coalescer.look(self)
            if not _SMALL < len(chunk) < TAIL_BYTES:
                self._resize(len(chunk))
        if self._on_gap is not None:
            now = self._gateway.clock()
            # A gap in which this process did not run shows nothing about the engine.
            if self._passed_at > self._gateway.stalled_at:
                self._on_gap(now - self._passed_at, now)
            self._passed_at = now

    def end(self, piece: Data) -> None:
        """Write the last piece, which may be empty."""
        self._connection = None  # it may serve another request already
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
        """Write ``event``, which reports that the answer broke off. No last chunk follows, so it looks cut."""
        self._write_first(self._framed(event))

    def pause(self) -> None:
        """Stop reading the stream, so that its chunks gather in the socket."""
        # The last piece was counted as one chunk, but each of its events may be a token.
        self.chunks += max(0, bytes(self._tail[-1]).count(b"\n\n") - 1)
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read the stream on, unless its caller still has to read what was written."""
        if self._connection is not None and not self._caller.reads_slowly:
            self._connection.resume()

    def seek_usage(self, stream: StreamFormat, opening: Data) -> bool:
        """Whether every piece must be seen to find the answer's usage; ``opening`` is the first piece."""
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
            # Anthropic's streams report the prompt's tokens in their first event, the output's in their last.
            opening = reported(bytes(self._opening))
            if opening is not None:
                usage = opening._replace(completion_tokens=usage.completion_tokens)
        return usage

    def choices(self, last: bytes) -> int:
        """The number of choices of a plain answer; 0 if it is not known. ``last`` is its end, see ``sent``."""
        if self._plain is not None:
            return self._plain.choices
        return choices_in(last) if self.from_start else 0

    def sent(self) -> bytes:
        """The last bytes of the body, without chunk framing: whole pieces, ``TAIL_BYTES`` at least, or all.

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
            if self.chunked:  # each piece is one chunk: its size, its data, CRLF
                piece = piece[piece.find(b"\n") + 1 : -2]  # type: ignore[union-attr]
            found.append(piece)
            size += len(piece)
        found.reverse()
        return b"".join(found)

    def _resize(self, size: int) -> None:
        """Fit the number of pieces that are kept to their ``size``."""
        tail = self._tail
        if size >= TAIL_BYTES:  # one piece is a tail: do not hold the memory of those before it
            if len(tail) > 1:
                last = tail[-1]
                tail.clear()
                tail.append(last)
                self.from_start = False
        elif tail.maxlen == _TAIL_PIECES:
            # Small pieces: so many that the tail has enough bytes even with one byte in each. It is done once.
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
        if self._start or not self.chunked:  # otherwise ``send`` calls ``pass_on``, which counts it
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
    """Empty input gives no chunk, because a chunk of size zero would end the body."""
    return b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if piece else b""
