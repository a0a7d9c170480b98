"""One relayed request: from the caller to an engine, and the answer back. See ``phase`` for the states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sage_inference.control_plane.refusal import Refusal, Why
from sage_inference.control_plane.routes import Route
from sage_inference.engines.connection import Broken, EngineConnection
from sage_inference.engines.pool import Connecting
from sage_inference.gateway import errors
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay import heads
from sage_inference.gateway.relay.phase import ALLOWED, FINAL, HOLDS_SLOT, Phase
from sage_inference.types import EngineState, ExecutionInstance, RequestMetadata, SchedulingDecision

if TYPE_CHECKING:
    from sage_inference.gateway.state import Engine, Gateway

RETRYABLE = frozenset({429, 502, 503})
MAX_HELD = 65536  # bytes of an engine's error that are held back to be looked at


class Caller(Protocol):
    """The caller's side of the connection, as an exchange sees it."""

    def write(self, data: bytes) -> None: ...

    def arm(self, seconds: float) -> None: ...

    def ended(self, exchange: Exchange, close: bool) -> None: ...

    @property
    def reads_slowly(self) -> bool: ...


class Event:
    """uvicorn sets an event on its cycles; an exchange needs none."""

    def set(self) -> None: ...


_EVENT = Event()


class Exchange:
    """Moves one request through its phases.

    It stands where uvicorn keeps a request's cycle, hence ``response_complete``, ``disconnected``,
    ``message_event`` and ``keep_alive``, which uvicorn reads and writes.
    """

    __slots__ = (
        "body",
        "caller",
        "chunked",
        "connecting",
        "connection",
        "decision",
        "disconnected",
        "engine",
        "fresh",
        "gateway",
        "head",
        "headers",
        "held",
        "hoped",
        "http10",
        "instance",
        "keep_alive",
        "message_event",
        "phase",
        "pieces",
        "queued_at",
        "request",
        "request_id",
        "response_complete",
        "route",
        "sent_at",
        "size",
        "status",
        "streams",
        "target",
        "tenant",
        "tried",
        "turn",
        "waited_ms",
        "whole",
    )

    request: RequestMetadata

    def __init__(
        self,
        caller: Caller,
        gateway: Gateway,
        route: Route,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        tenant: str,
        *,
        keep_alive: bool,
        http10: bool,
    ) -> None:
        self.caller = caller
        self.gateway = gateway
        self.route = route
        self.target = target
        self.headers = headers
        self.tenant = tenant
        self.keep_alive = keep_alive
        self.http10 = http10
        self.phase = Phase.READING
        self.response_complete = self.disconnected = self.whole = self.turn = False
        self.message_event = _EVENT
        self.pieces: list[bytes] = []
        self.size = 0
        self.body = b""
        self.tried: tuple[ExecutionInstance, ...] = ()
        self.connection: EngineConnection | None = None
        self.connecting: Connecting | None = None
        self.engine: Engine | None = None
        self.instance: ExecutionInstance | None = None
        self.decision: SchedulingDecision | None = None
        self.fresh = self.chunked = self.streams = self.hoped = False
        self.head = b""
        self.held: list[bytes] | None = None
        self.status = 0
        self.waited_ms = -1.0
        self.request_id = gateway.request_id(headers)

    # What moves it forward

    def begin(self) -> None:
        """The whole request is here, and it is its turn: classify and submit it."""
        gateway = self.gateway
        self.body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces = []
        self.queued_at = gateway.clock()
        self._move(Phase.QUEUED)
        try:
            self.request, self.body = gateway.classify(self)
            self.submit()
        except Refusal as refusal:
            self.answer(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self.waited_ms = 0.0
                self.caller.arm(gateway.timeouts.queue_s)

    def submit(self) -> None:
        """Ask for an instance. Raises ``Refusal``."""
        self.gateway.manager.submit(self)

    def placed(self, instance: ExecutionInstance, decision: SchedulingDecision) -> None:
        """An instance has a slot for it: send it there."""
        self._move(Phase.CONNECTING)
        if self.waited_ms >= 0:
            self.waited_ms = (self.gateway.clock() - self.queued_at) * 1000
        self.instance, self.decision = instance, decision
        self.hoped = self.hoped or instance.state is EngineState.READY
        self.engine = engine = self.gateway.engines[instance.instance_id]
        self.fresh = False
        connection = engine.pool.acquire()
        if connection is None:
            self._connect()
        else:
            self._send(connection)

    def refused(self, refusal: Refusal) -> None:
        """It waited, and what it waited for is gone."""
        self.answer(errors.from_refusal(refusal))

    def _connect(self) -> None:
        assert self.engine is not None
        self.fresh = True
        self.caller.arm(self.gateway.timeouts.connect_s)
        self.connecting = self.engine.pool.connect(self._send, self._refused)

    def _send(self, connection: EngineConnection) -> None:
        engine = self.engine
        assert engine is not None
        self._move(Phase.SENT)
        self.connecting = None
        self.connection = connection
        head = heads.request_head(
            engine.request_prefix(self.route, self.target),
            self.headers,
            self.request_id,
            len(self.body),
            engine.keeps_callers_key,
        )
        self.sent_at = self.gateway.clock()
        self.caller.arm(self.gateway.timeouts.first_byte_s)
        connection.send(self, head, self.body)

    # What the engine says

    def engine_answers(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
        engine, connection = self.engine, self.connection
        assert engine is not None
        assert connection is not None
        self.status = status
        engine.answered(status)
        if status in RETRYABLE and self._may_retry():
            connection.discard()
            self._retry()
            return
        self.head = self._head(status, headers, length)
        for name, value in headers:
            if name == b"content-type":
                self.streams = value.startswith(b"text/event-stream")
        if status >= 400 and engine.dialect.looks_at(status, self.route.path) and (length or 0) <= MAX_HELD:
            self.held = []

    def engine_sends(self, piece: bytes, end: bool) -> None:
        if self.held is not None:
            self.held.append(piece)
            if end:
                self._judge(b"".join(self.held))
            elif sum(map(len, self.held)) > MAX_HELD:
                self._let_go(b"".join(self.held), False)
            return
        if self.phase is Phase.SENT and (piece or end):
            # Not at the head: vLLM sends that at once, and the first token much later. Until then the
            # request may still go elsewhere.
            self._move(Phase.DELIVERING)
            assert self.engine is not None
            self.engine.first_byte(self.gateway.clock() - self.sent_at)
        if self.phase is Phase.DELIVERING:
            self._deliver(piece, end)

    def engine_failed(self, how: Broken, detail: str) -> None:
        connection, self.connection = self.connection, None
        if self.phase is Phase.DELIVERING:
            self._cut(detail)
            return
        self.held = None
        if (
            how is Broken.CLOSED
            and not self.fresh
            and connection is not None
            and connection.served
            and not self.head
        ):
            # It lay idle, and the engine closed it as our request crossed: the engine never saw it.
            self._move(Phase.CONNECTING)
            self._connect()
            return
        assert self.engine is not None
        self.engine.failed(how)
        self._elsewhere_or(errors.upstream_unreachable(self._at, detail))

    def _refused(self, error: OSError) -> None:
        assert self.engine is not None
        self.connecting = None
        self.engine.failed(Broken.REFUSED)
        self._elsewhere_or(errors.upstream_unreachable(self._at, f"refused the connection: {_reason(error)}"))

    # Retrying

    def _may_retry(self) -> bool:
        assert self.instance is not None
        if self.instance not in self.tried:
            self.tried += (self.instance,)
        return len(self.tried) <= self.gateway.retries and self.gateway.manager.can_retry(self)

    def _retry(self) -> None:
        self.connection = None
        self.head = b""
        self._move(Phase.QUEUED)
        try:
            self.gateway.manager.retry(self)
        except Refusal as refusal:
            self.answer(errors.from_refusal(refusal))
        else:
            if self.phase is Phase.QUEUED:
                self.caller.arm(self.gateway.timeouts.queue_s)

    def _elsewhere_or(self, error: ApiError) -> None:
        if self._may_retry():
            self._retry()
            return
        if not self.hoped:  # all that were tried had failed before
            error = errors.no_healthy_instance(self.request.effective_model_name, error.message)
        self.answer(error)

    def _judge(self, body: bytes) -> None:
        """An engine's error is here as a whole: it may mean "draining", or need our error shape."""
        engine = self.engine
        assert engine is not None
        self.held = None
        if engine.dialect.means_draining(self.status, body):
            engine.draining()
            if self._may_retry():
                self._retry()
                return
        wrapped = engine.dialect.wrapped_error(self.status, self.route.path, body)
        if wrapped is not None:
            self.head = self._head(self.status, [(b"content-type", b"application/json")], len(wrapped))
        self._let_go(body if wrapped is None else wrapped, True)

    def _let_go(self, body: bytes, end: bool) -> None:
        self.held = None
        self._move(Phase.DELIVERING)
        self._deliver(body, end)

    # What the caller gets

    def _head(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> bytes:
        self.chunked = length is None and not self.http10
        if length is None and self.http10:
            self.keep_alive = False
        if self.chunked:
            framing = b"transfer-encoding: chunked\r\n"
        elif length is None or status == 204:
            framing = b""
        else:
            framing = b"content-length: %d\r\n" % length
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        return heads.response_head(status, headers, framing, self._our_headers())

    def _our_headers(self) -> bytes:
        lines = b"x-request-id: %b\r\n" % self.request_id
        if self.engine is not None:
            lines += self.engine.header
        if self.waited_ms >= 0:
            lines += b"x-sage-queue-ms: %d\r\n" % round(self.waited_ms)
        return lines + self.gateway.cors_headers(self.headers)

    def _deliver(self, piece: bytes, end: bool) -> None:
        if self.chunked:
            if piece:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            if end:
                piece += b"0\r\n\r\n"
        if self.head:
            piece = self.head + piece
            self.head = b""
        if piece:
            self.caller.write(piece)
        if end:
            self.connection = None
            self._move(Phase.DONE)
        else:
            self.caller.arm(self.gateway.timeouts.stream_idle_s)
            if self.caller.reads_slowly:
                self.pause()

    def answer(self, error: ApiError) -> None:
        """Answer for the engine, or instead of one."""
        body = error.body()
        self.status = error.status
        if error.close:
            self.keep_alive = False
        headers = [(b"content-type", b"application/json"), *error.headers]
        self.caller.write(self._head(error.status, headers, len(body)) + body)
        self._move(Phase.DONE)

    def _cut(self, detail: str) -> None:
        """The answer ends before its end, and must look so: no last chunk, no ``[DONE]``."""
        self.keep_alive = False
        if self.streams:
            error = errors.cut_short(self._at, detail)
            event = b"data: %b\n\n" % error.body()
            head, self.head = self.head, b""
            self.caller.write(head + (b"%x\r\n%b\r\n" % (len(event), event) if self.chunked else event))
        self._move(Phase.CUT)

    # What the caller and the clock do

    def caller_left(self) -> None:
        """The caller closed its connection: nobody wants the answer."""
        if FINAL[self.phase]:
            return
        self._abandon()
        self._move(Phase.CANCELLED)

    def timed_out(self) -> None:
        """The current phase took too long."""
        timeouts = self.gateway.timeouts
        if self.phase is Phase.QUEUED:
            self.gateway.manager.withdraw(self)
            message = f"no instance had a free slot within {timeouts.queue_s:g} s (timeouts.queue_s)"
            wait = self.gateway.manager.retry_after()
            self.answer(errors.from_refusal(Refusal(Why.QUEUE_TIMEOUT, message, retry_after_s=wait)))
        elif self.phase is Phase.CONNECTING:
            self._abandon()
            assert self.engine is not None
            self.engine.failed(Broken.REFUSED)
            self._elsewhere_or(errors.upstream_timeout(self._at, timeouts.connect_s))
        elif self.phase is Phase.SENT:
            # Not sent elsewhere: the engine may be at work on it, and the next one would take as long.
            self._abandon()
            self.answer(errors.upstream_timeout(self._at, timeouts.first_byte_s))
        elif self.phase is Phase.DELIVERING:
            self._abandon()
            self._cut(f"was silent for {timeouts.stream_idle_s:g} s")

    def pause(self) -> None:
        """The caller reads slowly: so do we, from the engine."""
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def _abandon(self) -> None:
        """Let go of queue place, connection attempt and connection, whichever there is."""
        if self.phase is Phase.QUEUED:
            self.gateway.manager.withdraw(self)
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.connection is not None:
            self.connection.discard()
            self.connection = None

    @property
    def _at(self) -> str:
        return self.instance.instance_id if self.instance is not None else "?"

    def _move(self, to: Phase) -> None:
        """The one place where the phase changes, and where a slot is given back."""
        left = self.phase
        assert ALLOWED[left][to], f"{left.name} to {to.name}"
        self.phase = to
        if FINAL[to]:
            self.response_complete = True
            self.gateway.stats.ended(self, to)
            self.caller.ended(self, close=to is Phase.CUT or not self.keep_alive)
        if HOLDS_SLOT[left] and not HOLDS_SLOT[to]:
            assert self.instance is not None
            self.gateway.manager.release(self.instance)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
