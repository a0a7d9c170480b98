"""The body of an answer on its way to the caller, piece by piece. An answer that came in one piece needs no writer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sage_inference.control_plane.instances.load import Placement
from sage_inference.engines.connection import JOIN_BYTES
from sage_inference.gateway.relay import tail
from sage_inference.gateway.relay.caller import Sink
from sage_inference.gateway.relay.tail import MOST_PIECES, TAIL_BYTES
from sage_inference.gateway.relay.usage import PlainUsage, choices_in, reported
from sage_inference.types import Usage
from sage_inference.wire.chunks import CRLF, chunk
from sage_inference.wire.message import Data, StreamFormat

if TYPE_CHECKING:
    from sage_inference.control_plane.submission import Submission
    from sage_inference.engines.connection import EngineConnection
    from sage_inference.gateway.hub import Hub

_NEVER = sys.maxsize
# As globals: an enum's members are looked up by a Python call.
_EVENTS, _OPAQUE = StreamFormat.EVENTS, StreamFormat.OPAQUE
_FEW_PIECES = 4  # a tail of so few is not trimmed, because it is short, or most of it is one long piece


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
        "_delta",
        "_seek_at",
        "from_start",
        "_opening",
        "_plain",
        # The pace of the stream.
        "_placement",
        "_gpu",
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
        # The GPU, if embeddings may run there as well.
        self._placement = placement = submission.place
        self._gpu = gpu = placement.shared if isinstance(placement, Placement) else None
        if gpu is not None:
            self._on_gap: Callable[[float, float], None] | None = None
            self._passed_at = 0.0
            gpu.follow(placement, self, gateway.clock())  # type: ignore[arg-type]
        # The last pieces, as they were written. They are references: nothing is copied while a stream goes on.
        self._tail: list[Data] = []
        # While this is set, ``pass_on`` gets only chunks that end as this one, and keeps none: see ``_pass_deltas_only``.
        self._delta: bytes | None = None
        self._seek_at = _NEVER  # the count of chunks at which the end of a delta is sought again
        self.from_start = True  # whether ``sent`` returns the body from its first byte on
        self._opening = b""  # the first piece of a stream, if it reports usage
        self._plain: PlainUsage | None = None  # set for an answer that is no stream
        self.chunks = 0
        # The count of chunks at which the coalescer looks at the stream's rate again.
        self._look_at = 0
        self.pauses_left = 0
        self.looked_at = 0.0

    def send(self, piece: Data) -> None:
        """Write a piece that is not the last."""
        if self._plain is not None:
            self._plain.add(piece)
        if self._start:  # the head leaves with the first piece, in one packet
            piece = self._framed(piece)
            self._tail.append(piece)
            self._write_first(piece)
            self._wheel.set(self._caller, self._wheel.idle_s)
        elif self.chunked:
            if self._delta is not None and not tail.are_deltas(piece, self._delta):
                self._pass_all()
            self.pass_on(chunk(piece))  # it trims a tail of short pieces
            if len(piece) >= TAIL_BYTES:
                self._keep_last()
        else:
            self._tail.append(piece)
            self._caller.write(piece)
            self._wheel.set(self._caller, self._wheel.idle_s)
            if len(piece) >= TAIL_BYTES:
                self._keep_last()
            elif len(self._tail) > 2 * MOST_PIECES:
                self._trim()

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
        if self._delta is None:
            self._tail.append(chunk)
        self.chunks = chunks = self.chunks + 1
        if chunks >= self._look_at:
            self._look(chunk)
        gpu = self._gpu
        if gpu is not None and gpu.watches:
            now = self._gateway.clock()
            if self._on_gap is None:
                self._on_gap = gpu.listener(self._placement, now)  # type: ignore[arg-type]
            # A gap in which this process did not run shows nothing about the engine.
            elif self._passed_at > self._gateway.stalled_at and self._passed_at > gpu.watches_since:
                self._on_gap(now - self._passed_at, now)
            self._passed_at = now

    def end(self, piece: Data) -> None:
        """Write the last piece, which may be empty."""
        self._connection = None  # it may serve another request already
        if self._plain is not None:
            self._plain.add(piece)
        if self.chunked:
            piece = chunk(piece)
            self._tail.append(piece)
            piece += b"0\r\n\r\n"
        else:
            self._tail.append(piece)
        if self._start:
            self._write_first(piece)
        elif piece:
            self._caller.write(piece)

    def cut(self, event: bytes) -> None:
        """Write ``event``, which reports that the answer broke off. No last chunk follows, so it looks cut."""
        self._write_first(self._framed(event))

    def pause(self) -> None:
        """Stop reading the stream, so that its chunks gather in the socket."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read the stream on, unless its caller still has to read what was written."""
        if self._connection is not None and not self._caller.reads_slowly:
            self._connection.resume()

    def seek_usage(self, stream: StreamFormat, opening: Data) -> bool:
        """Whether every piece must be seen to find the answer's usage; ``opening`` is the first piece."""
        if stream is _OPAQUE:
            self._plain = PlainUsage()
            return True
        opening = bytes(opening)
        if len(opening) <= TAIL_BYTES and b'"usage"' in opening:
            self._opening = opening
        if stream is _EVENTS:
            self._seek_at = 0
        return False

    def reported(self, last: bytes) -> Usage | None:
        """The usage that the answer reports; ``last`` is its end, see ``sent``."""
        usage = reported(last)
        if usage is None:
            return reported(self._plain.text) if self._plain is not None else None
        if not usage.prompt_tokens and self._opening:
            # Anthropic's streams report the prompt's tokens in their first event, the output's in their last.
            opening = reported(self._opening)
            if opening is not None:
                usage = Usage(opening.prompt_tokens, usage.completion_tokens, opening.cached_tokens)
        return usage

    def choices(self, last: bytes) -> int:
        """The number of choices of a plain answer; 0 if it is not known. ``last`` is its end, see ``sent``."""
        if self._plain is not None:
            return self._plain.choices
        return choices_in(last) if self.from_start else 0

    def sent(self) -> bytes:
        """The last bytes of the body, without chunk framing: ``TAIL_BYTES`` at least, or all.

        Deltas may be missing before those bytes that are no deltas. Sets ``from_start``.
        """
        if len(self._tail) > _FEW_PIECES:
            self._trim()
        return tail.text_of(self._tail, self.chunked)

    def _keep_last(self) -> None:
        """Let the memory of all pieces but the last go at once: that one is long enough to be a tail by itself."""
        if len(self._tail) > 1:
            del self._tail[:-1]
            self.from_start = False

    def _trim(self) -> None:
        if tail.trim(self._tail, self.chunked):
            self.from_start = False

    def _look(self, chunk: bytes) -> None:
        """Look at the stream as a whole, once in several chunks; ``chunk`` is the latest."""
        self._look_at = self._gateway.coalescer.look(self)
        if self.pauses_left:
            # The chunk was counted as one, but each of its events may be a token.
            if (events := chunk.count(b"\n\n")) > 1:
                self.chunks += events - 1
            # Its pieces are long now: it costs less to keep one than to compare the ends of its chunks.
            if self._delta is not None:
                self._pass_all()
            # Not sooner: this runs for each piece of a paused stream, and a tail of short pieces has some after a trim.
            elif len(self._tail) > MOST_PIECES:
                self._trim()
        elif self._delta is None:
            if len(self._tail) > _FEW_PIECES:
                self._trim()
            if self.chunks >= self._seek_at:
                self._pass_deltas_only()

    def _pass_deltas_only(self) -> None:
        """Let pass only chunks that end as the deltas of this stream do. The others are parsed, and come to ``send``.

        A delta is a whole event that only adds text: neither it nor any piece before it shows anything of the
        stream's end. So an open stream holds the memory of no piece. The check costs nothing, because the connection
        compares the end of each chunk anyway. One delta stands for all of them: it shows the protocol of the stream.
        """
        found = tail.find_delta(self._tail)
        if found is not None and self._connection is not None:
            end, self._delta = found
            self._connection.pass_only_chunks_with(end)
            self._tail[:] = [self._delta]
            self.from_start = False
        else:
            self._seek_at = 2 * self.chunks  # ever less often, because the stream may have no such end

    def _pass_all(self) -> None:
        self._delta = None
        self._seek_at = 2 * self.chunks
        if self._connection is not None:
            self._connection.pass_only_chunks_with(CRLF)

    def _framed(self, piece: Data) -> Data:
        return chunk(piece) if self.chunked else piece

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
