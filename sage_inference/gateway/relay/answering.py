"""The way back: the answer to a caller, from its head to its end, and the moves between phases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sage_inference.control_plane.instances.load import Placement
from sage_inference.engines.connection import JOIN_BYTES, EngineConnection
from sage_inference.gateway import errors
from sage_inference.gateway.body_memory import COUNTED
from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.accounting import Accounted
from sage_inference.gateway.relay.answer_outcome import is_unfinished
from sage_inference.gateway.relay.broken_stream import last_words
from sage_inference.gateway.relay.caller import Caller
from sage_inference.gateway.relay.heads import STATUS_LINES
from sage_inference.gateway.relay.phase import EFFECTS, ENDS, FINAL, STAYS, Phase
from sage_inference.gateway.relay.response import CountedResponseWriter, ResponseWriter
from sage_inference.gateway.relay.timed_response import TimedResponseWriter
from sage_inference.telemetry.decisions.document import explain_line
from sage_inference.telemetry.refusals import Refusal, short
from sage_inference.wire.message import Data, ResponseHead, StreamFormat

if TYPE_CHECKING:
    from sage_inference.gateway.coded_body import CodedBody

JSON = [(b"content-type", b"application/json")]

# As globals: an enum's members are looked up by a Python call.
_DELIVERING, _DONE = Phase.DELIVERING, Phase.DONE
_EVENTS = StreamFormat.EVENTS


class Answering(Accounted):
    """The caller's side of an exchange."""

    __slots__ = (
        # The connection of the caller.
        "caller",
        "keep_alive",
        "response_complete",
        "disconnected",
        # The request, as it comes in.
        "pieces",
        "coded",
        "body",
        "body_complete",
        "prompt",
        # The answer.
        "buffered_error",
        "chunked",
        "waited_ms",
    )

    caller: Caller[Any]  # it is notified of the end of this very object
    keep_alive: bool
    response_complete: bool  # also where the caller has left: uvicorn then goes on with the next request
    disconnected: bool  # uvicorn's
    pieces: list[bytes]  # of the body, where it comes in several
    coded: CodedBody | None  # what decodes the body; set, mostly to None, where the head was parsed
    body: bytes  # as the engine gets it
    body_complete: bool
    prompt: bytes  # until it is measured
    buffered_error: list[Data] | None  # an engine's answer that is held back to be looked at as a whole
    chunked: bool  # whether the caller gets the body in chunks
    waited_ms: float  # for a slot; below 0 if it did not wait

    # The answer of an engine

    def _let_go(self, piece: Data, end: bool, took: float | None = None) -> None:
        """Begin to deliver the engine's answer. No other engine is asked from here on.

        ``took``: seconds to the first byte. None if that shows nothing of the engine.
        """
        self.buffered_error = None
        attempt = self.attempt
        answer, length = attempt.answer, self.length
        assert answer is not None
        start = self._head(answer, length)
        if end and length is not None and len(piece) < JOIN_BYTES:  # the whole answer is here
            attempt.connection = None
            self.caller.write(start + piece)  # one packet, one system call
            self.took = took
            self.last = piece
            self._move(_DONE)
            return
        connection = attempt.connection
        stats = self.gateway.stats
        made = ResponseWriter if stats.access is None else CountedResponseWriter
        if answer.stream is _EVENTS and next(stats.samples):
            made = TimedResponseWriter
        self.delivery = delivery = made(self.gateway, self, connection, self.caller, start, self.chunked)
        self.took = took
        if end:
            self._finish(piece)
            return
        self._move(_DELIVERING)
        self._drop_body()  # it will not be sent again, and may be long
        if self.head.route.type.is_llm and delivery.seek_usage(answer.stream, piece):
            pass  # usage is sought in each piece, so the writer must see them all
        elif self.chunked and connection is not None:
            connection.pass_whole_chunks(delivery)
        delivery.send(piece)
        self.gateway.loop_batch.later(self._note_first_byte)
        if self.caller.reads_slowly:  # the pause came with an earlier answer on this connection
            self.pause()

    def _finish(self, piece: Data) -> None:
        """The last piece of an answer arrived."""
        # The connection is in the pool again. A caller that reads slowly must not pause it for the next request.
        attempt = self.attempt
        connection, attempt.connection = attempt.connection, None
        if (
            self.length is None
            and connection is not None
            and not connection.is_chunked
            and self._is_unfinished()
        ):
            self._cut(errors.cut_short(attempt.at, "closed the connection"))
            return
        self.delivery.end(piece)
        self.last = self.delivery.sent()
        self._move(_DONE)

    def _is_unfinished(self) -> bool:
        """Whether an event stream that ended with its connection lacks its last event. Then it was cut."""
        answer = self.attempt.answer
        return (
            answer is not None
            and answer.stream is _EVENTS
            and self.phase is _DELIVERING
            and self.route.type.is_llm
            and is_unfinished(self.delivery.sent(), self.route.type)
        )

    def _head(self, answer: ResponseHead, length: int | None) -> bytes:
        if length is not None:
            framing = b"" if answer.status == 204 else b"content-length: %d\r\n" % length
        elif self.head.http10:
            framing = b""
            self.keep_alive = False
        else:
            self.chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        if self.waited_ms >= 0:
            if self.waited_ms == math.inf:  # the caller has a head: see ``Held``
                return b""
            framing += b"x-sage-queue-ms: %d\r\n" % round(self.waited_ms)
        if self.head.asks is not None and self.head.asks.explain and isinstance(self.place, Placement):
            framing += b"x-sage-why: %b\r\n" % self._why().encode("ascii", "replace")
        return b"".join(  # faster than a format of so many pieces
            (
                STATUS_LINES[answer.status],
                answer.lines,
                framing,
                b"x-request-id: ",
                self.head.request_id or self.request_id,
                b"\r\n" if self.upstream is None else self.upstream.id_end,
                self.head.cors,
                b"\r\n",
            )
        )

    def _why(self) -> str:
        return explain_line(self.place) if isinstance(self.place, Placement) else ""

    # The gateway's own words

    def fail(self, error: ApiError) -> None:
        """Answer with an error of the gateway's own."""
        self.gateway.stats.answered_with(error)
        shape = format_of(self.route.path)
        body = shape.body(error, self.caller_id)
        self.status, self.length = error.status, len(body)
        if error.close:
            self.keep_alive = False
        headers = [*JSON, *error.headers, *shape.headers(self.caller_id)]
        head = self._head(ResponseHead(error.status, headers), len(body))
        self.caller.write(head + body)
        if self.instance is None:
            self._note_refusal(error)
        self._move(_DONE)

    def _note_refusal(self, error: ApiError) -> None:
        # Neither is there if the body was not read.
        request, now = getattr(self, "request", None), self.gateway.clock()
        self.gateway.stats.refusals.add(
            Refusal(
                getattr(self, "queued_at", now),
                now,
                self.caller_id.decode("latin-1"),
                self.route.path,
                self.head.tenant,
                request,
                error.status,
                short(error.message),
            )
        )

    def _cut(self, error: ApiError) -> None:
        """End the answer before its end, so that it is seen to be cut: no last chunk, and no ``[DONE]``."""
        self.keep_alive = False
        answer = self.attempt.answer
        # With a Content-Length an error event would count as body and could fill it up: a short count shows the cut.
        if answer is not None and self.length is None:
            delivery, shape = self.delivery, format_of(self.route.path)
            sent = delivery.sent()
            words = last_words(answer.stream, shape, error, self.caller_id, sent, delivery.from_start)
            if words:
                delivery.cut(words)
            elif self.head.http10:  # a body of any kind ends with its connection: only a reset shows the cut
                self.caller.reset()
        self._move(Phase.CUT)

    @property
    def _began(self) -> bool:
        """Whether bytes of an answer were written, in another phase than DELIVERING."""
        return False

    @property
    def is_answered(self) -> bool:
        """Whether ``status`` is the caller's, and not only that of an engine's answer."""
        return (
            self.phase is _DONE
            or self.delivery is not None
            or not self.body_complete  # refused while it was read: no engine was asked
            or self._began
        )

    @property
    def body_bytes(self) -> int | None:
        """Bytes of the answer's body that were written for the caller. None where they were not counted."""
        if self.delivery is not None:
            return self.delivery.body_bytes
        return getattr(self, "length", None) if self.phase is _DONE or not self.body_complete else None

    # A caller that reads slowly

    def pause(self) -> None:
        """The caller reads slowly: read slowly from the engine, too."""
        if (connection := self._connection) is not None:
            connection.pause()

    def resume(self) -> None:
        if (connection := self._connection) is not None:
            connection.resume()

    @property
    def _connection(self) -> EngineConnection | None:
        """The connection to an engine, while an answer may arrive on it."""
        return None if self.attempt is None else self.attempt.connection

    # Phases

    @property
    def _at(self) -> str:
        return "?" if self.attempt is None else self.attempt.at

    def _arm(self, seconds: float) -> None:
        """Set the only deadline: the next event must come within ``seconds``."""
        self.gateway.wheel.set(self.caller, seconds)

    def _move(self, to: Phase) -> None:
        """The one place where the phase changes."""
        left = self.phase
        effect = EFFECTS[left][to]
        assert effect, f"{left.name} to {to.name}"
        self.phase = to
        if effect == STAYS:
            return
        if effect & ENDS:
            self.response_complete = True
            self.caller.ended(self, to is not _DONE or not self.keep_alive)
        # The caller has its answer, and the slot matters only to requests that are read later.
        if to is _DONE:
            self.gateway.loop_batch.later(self._account, left, to, effect)
        else:
            self._account(left, to, effect)

    def _drop_body(self) -> None:
        """Let the request's body go. No attempt needs it any more."""
        self.body = b""
        self.coded = None
        if FINAL[self.phase]:
            self.prompt = b""
        if self.size > COUNTED:
            self.gateway.bodies.drop(self)
