"""One connection to an engine: sends a request, passes on the answer, and knows whether it may be used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httptools

from sage_inference.engines.parser_events import ParserEvents
from sage_inference.engines.receiver import Broken, ChunkTaker, Receiver
from sage_inference.engines.response_framing import KNOWN_HEADS, ends_once, shared_head, size_of
from sage_inference.wire.chunks import CHUNK_HEADS, CRLF, all_end, chunk
from sage_inference.wire.head_cache import LONGEST, HeadCache
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.message import HOP_BY_HOP, Data, Header, ResponseHead

MAX_HEAD_BYTES = 65536
_HUGE_HEAD = f"sent more than {MAX_HEAD_BYTES} bytes of headers"
_VERSIONS = ("1.1", "1.0")
_FRAMING = (b"content-length", b"transfer-encoding")
# Shared empty values, so that an open stream does not hold its own copies.
_NO_HEADERS: list[Header] = []  # never added to, because a header behind a complete head is a trailer
_NO_NAMES: frozenset[bytes] = frozenset()
JOIN_BYTES = 65536  # above it, copying costs more than a second write

_known: HeadCache[ResponseHead] = HeadCache(KNOWN_HEADS)


class EngineConnection(asyncio.Protocol):
    """HTTP/1.1 to one engine, one exchange at a time.

    Reusable only after an answer that ended cleanly, by its own framing, with nothing behind it.

        idle ─send─▶ waiting ─known head─▶ counting ─last byte─▶ idle
                        │ any other head
                        └─▶ parsing ─end of message─▶ idle, or closed where that was not clean

    A known head with a length needs no parser: its body is counted (``_body_left``). Neither does a chunk that comes
    alone and whole, the most frequent event of all: see ``pass_whole_chunks``. llhttp does all other work.
    """

    __slots__ = (
        # The connection
        "transport",
        "served",
        "_batch",
        "_events",
        "_on_idle",
        "_on_lost",
        # The exchange
        "_receiver",
        "_body_left",
        "_chunk_taker",
        "_taker_now",
        "_ending",
        # The message that is being parsed
        "_parser",
        "_head",
        "_headers",
        "_hop_headers",
        "_head_bytes",
        "_length",
        "_chunked",
        "_other_coding",
        "_keep_alive",
        "_answered",
        "_between_chunks",
        "_complete",
        "_pieces",
        "_surplus",
    )

    transport: asyncio.Transport

    def __init__(
        self, on_idle: ConnectionEvent, on_lost: ConnectionEvent, events: ParserEvents, batch: LoopBatch
    ) -> None:
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._events = events
        self._batch = batch
        # Answers it has carried. A failure of the first is the engine's; later ones may be those of an old connection.
        self.served = 0
        self._receiver: Receiver | None = None
        self._body_left = 0
        self._chunk_taker: ChunkTaker | None = None
        self._taker_now: ChunkTaker | None = None  # the same while the next byte is the first of a chunk
        self._ending = CRLF  # of the chunks that the taker gets
        self._parser: httptools.HttpResponseParser | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "busy" if self._receiver else "idle"
        return f"<EngineConnection {state}, {self.served} served>"

    @property
    def is_closed(self) -> bool:
        return self.transport.is_closing()

    @property
    def is_chunked(self) -> bool:
        """Whether the answer comes, or came, in chunks."""
        return self._chunked

    @property
    def answering(self) -> Receiver | None:
        """The receiver of an answer of which a part came, and not yet its end."""
        began = self._body_left > 0 or (self._parser is not None and self._answered)
        return self._receiver if began else None

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Start an exchange on a connection that is idle."""
        self._receiver = receiver
        batch, transport = self._batch, self.transport
        if len(body) >= JOIN_BYTES:
            batch.write(transport, head)
            batch.write(transport, body)
        elif batch.is_open:
            batch.write(transport, head + body)
        else:  # without its call, because most requests begin an iteration
            transport.write(head + body)  # one packet, one system call

    def hand_to(self, receiver: Receiver) -> None:
        """Give the rest of the answer under way to another receiver, also while the connection closes.

        A connection that has reported its last event to a receiver reports nothing more.
        """
        if self._receiver is not None:
            self._receiver = receiver

    def pass_whole_chunks(self, taker: ChunkTaker | None) -> None:
        """Pass on each chunk that comes alone and whole as it came, without parsing it; with None, do not.

        The size and the end of such a chunk stand at known places. The parser never gets it, and needs not: between
        two chunks it keeps nothing of those before.
        """
        if self._chunked:
            self._chunk_taker = taker

    def pass_only_chunks_with(self, end: bytes) -> None:
        """Pass on, of all chunks, only those that end with ``end``. It includes the CRLF behind each chunk."""
        self._ending = end

    def discard(self) -> None:
        """Close at once, without a report to the receiver. The engine sees that its caller left."""
        self._receiver = self._chunk_taker = self._taker_now = None
        self.transport.abort()

    def engine_is_silent(self) -> None:
        """Report to the receiver of the answer, if there is one."""
        receiver = self._receiver
        if receiver is not None:
            try:
                receiver.engine_is_silent()
            except Exception as error:
                self._broke(receiver, error)

    def pause(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._batch.read_on()
        self._on_lost(self)
        self._chunk_taker = self._taker_now = None
        receiver, self._receiver = self._receiver, None
        parser, self._parser = self._parser, None
        if receiver is None:
            return
        unframed = parser is not None and self._answered and not self._chunked and self._length is None
        try:
            if unframed and exc is None:
                receiver.engine_sends(
                    b"", True
                )  # a body that ends with its connection (RFC 9112 section 6.3)
            else:
                receiver.engine_failed(
                    Broken.CLOSED, "closed the connection" if exc is None else "reset the connection"
                )
        except Exception as error:
            receiver.broke(error)

    def data_received(self, data: bytes) -> None:
        batch = self._batch
        # Bytes on an idle connection are not deferred, because it must be closed before another request takes it.
        if batch.defers_reads and self._receiver is not None:
            batch.defer(self, data)
            return
        taker, receiver = self._taker_now, self._receiver
        try:
            # One whole chunk, and nothing else: its first line has the size that its length demands. A body with
            # these bytes inside a chunk does not get here, because ``_taker_now`` is set between chunks only.
            if taker is not None and data.startswith(CHUNK_HEADS[len(data)]):
                if data.endswith(self._ending):
                    taker.pass_on(data)
                else:
                    self._send_whole(data)
            elif receiver is None:
                self.discard()  # the connection is idle, so these bytes answer no request
            elif self._body_left:
                self._count(receiver, data)
            elif self._parser is None:
                self._begin(receiver, data)
            else:
                self._parse(receiver, data)
        except Exception as error:
            if receiver is None:
                raise
            self._broke(receiver, error)

    def _send_whole(self, data: bytes) -> None:
        """Send a chunk that ``pass_only_chunks_with`` keeps from the taker."""
        receiver = self._receiver
        assert receiver is not None  # there is one as long as there is a taker
        if data.endswith(CRLF):
            receiver.engine_sends(data[data.find(b"\n") + 1 : -len(CRLF)], False)
        else:
            self._parse(receiver, data)

    def _broke(self, receiver: Receiver, error: Exception) -> None:
        """The receiver raised: that is neither the engine's fault nor another request's."""
        if self._receiver is receiver:  # otherwise the answer had ended, and the connection may serve another
            self.discard()
            self._on_lost(self)
        receiver.broke(error)

    # A head that is known, and a body that is counted

    def _begin(self, receiver: Receiver, data: bytes) -> None:
        known = _known.get(data)
        if known is None or not known[1]:
            self._begin_parsing()
            self._parse(receiver, data)
            self._cache_head(data)
            return
        answer, length, begin = known
        receiver.engine_answers(answer, length)
        if self._receiver is receiver:  # otherwise it discarded the connection
            if len(data) == begin + length:  # the whole answer is here, as most are
                self._recycle(True)
                receiver.engine_sends(data[begin:], True)
                return
            self._body_left = length
            if JOIN_BYTES < len(data) < begin + length:
                self._count(receiver, memoryview(data)[begin:])
            elif len(data) > begin:
                self._count(receiver, data[begin:])

    def _count(self, receiver: Receiver, piece: Data) -> None:
        left = self._body_left - len(piece)
        if left > 0:
            self._body_left = left
            receiver.engine_sends(piece, False)
            return
        if left < 0:
            piece = piece[:left]
        self._body_left = 0
        self._recycle(left == 0)
        receiver.engine_sends(piece, True)

    def _cache_head(self, data: bytes) -> None:
        """Cache the head that was parsed, if it alone decides how its answer is framed."""
        if self._answered and self._length and self._keep_alive:
            _known.put(data, self._length, self._head)

    # Any other answer

    def _begin_parsing(self) -> None:
        self._parser = httptools.HttpResponseParser(self._events)
        self._headers: list[Header] = []
        self._hop_headers = _NO_NAMES  # the ones that Connection declares to be for this hop only
        self._length: int | None = None
        self._chunked = self._other_coding = self._answered = self._complete = self._surplus = False
        self._keep_alive = False
        self._head_bytes = 0
        self._between_chunks = True
        self._ending = CRLF

    def _parse(self, receiver: Receiver, data: bytes) -> None:
        assert self._parser is not None
        events = self._events
        events.begin(self, self._between_chunks)
        body = events.pieces
        if not self._answered:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            if not self._complete:
                cause = error.__context__ if isinstance(error.__context__, ValueError) else error
                huge = str(cause) == _HUGE_HEAD
                self._fail(receiver, _HUGE_HEAD if huge else f"sent no valid HTTP: {cause}")
                return
            self._surplus = True
        if self._receiver is not receiver:
            return  # it discarded the connection
        if not self._answered:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(receiver, _HUGE_HEAD)
            return
        if self._complete:
            self._end(receiver, data, b"".join(body[: self._pieces]))  # any further pieces are surplus
            return
        self._between_chunks = events.between_chunks[0]
        # Not where data ends inside a line: that is a part of the next chunk's size.
        next_is_chunk = self._between_chunks and data.endswith(CRLF)
        if body:
            piece = body[0] if len(body) == 1 else b"".join(body)
            if self._ending is not CRLF and next_is_chunk and self._taker_now and all_end(body, self._ending):
                self._taker_now.pass_on(chunk(piece))
            else:
                receiver.engine_sends(piece, False)
        if self._chunk_taker is not None:
            self._taker_now = self._chunk_taker if next_is_chunk else None

    def _end(self, receiver: Receiver, data: bytes, piece: bytes) -> None:
        """The message ended within ``data``, and ``piece`` is the last of its body."""
        # llhttp ignores empty lines behind a message, so only the last bytes show whether there were some.
        ends = data.endswith(piece[-64:]) if self._length else ends_once(data)
        framed = self._chunked or self._length is not None
        self._recycle(self._keep_alive and framed and ends and not self._surplus)
        receiver.engine_sends(piece, True)

    def _fail(self, receiver: Receiver, detail: str) -> None:
        self.discard()
        self._on_lost(self)
        receiver.engine_failed(Broken.GARBAGE, detail)

    def _recycle(self, clean: bool) -> None:
        self._receiver = self._chunk_taker = self._taker_now = None
        self._parser = None
        self.served += 1
        # An answer that comes early leaves part of its request unsent, and the engine might not read the next one.
        transport = self.transport
        if clean and not transport.is_closing() and not transport.get_write_buffer_size():
            transport.resume_reading()  # it may have been paused while the answer's end was deferred
            self._on_idle(self)
        else:
            transport.abort()

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True
            return
        self._headers = []
        self._hop_headers = _NO_NAMES
        self._length = None
        self._chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if self._answered:
            if name in _FRAMING:
                raise ValueError("framing in a trailer")
            return  # a trailer, which callers do not get
        if name not in HOP_BY_HOP:
            self._headers.append((name, value))
        elif name == b"content-length":
            # llhttp has checked it: digits, one value, not beside chunked.
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._other_coding = self._chunked or value.lower() != b"chunked"
            self._chunked = True
        elif name == b"connection":
            self._hop_headers |= {token.strip() for token in value.lower().split(b",")}

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        if self._head_bytes > MAX_HEAD_BYTES and size_of(self._headers) > MAX_HEAD_BYTES:
            raise ValueError(_HUGE_HEAD)
        status = self._parser.get_status_code()
        if self._surplus:
            return
        if 100 <= status < 200 and status != 101:
            if self._chunked:
                raise ValueError("an interim answer with a body")
            return  # the real answer follows
        if self._other_coding or status == 101:
            raise ValueError("a transfer coding or a protocol nobody asked for")
        if not 200 <= status < 600:
            raise ValueError(f"status {status}")
        if self._parser.get_http_version() not in _VERSIONS:
            raise ValueError(f"HTTP/{self._parser.get_http_version()}")
        self._answered = True
        self._keep_alive = self._parser.should_keep_alive()
        if status in (204, 304):  # no body, whatever length the head has
            self._length = 0
            self._chunked = False
        receiver = self._receiver
        if receiver is not None:
            headers, self._headers = self._headers, _NO_HEADERS
            if self._hop_headers:
                headers = [header for header in headers if header[0] not in self._hop_headers]
                self._hop_headers = _NO_NAMES
            make = shared_head if self._head_bytes <= LONGEST else ResponseHead
            self._head = make(status, tuple(headers))
            receiver.engine_answers(self._head, None if self._chunked else self._length)

    def on_message_complete(self) -> None:
        if self._answered and not self._complete:
            self._complete = True
            self._pieces = len(self._events.pieces)


ConnectionEvent = Callable[[EngineConnection], None]
