"""One caller's connection: its transport, its one deadline, its place within the limit, and the ways it can end."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sage_inference.gateway import errors
from sage_inference.gateway.connection_limit import HEAD_S
from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import STATUS_LINES, given_id
from sage_inference.wire.flow import Flow, reset
from sage_inference.wire.isolation import report
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.message import Data
from sage_inference.wire.request_guard import NOT_STARTED, RequestGuard

if TYPE_CHECKING:
    from uvicorn.config import Config

    from sage_inference.gateway.gateway import Gateway

_FIRST_S = 0.5  # for the first request on a connection, when the gateway stops
NO_PIPELINE: deque[Any] = deque()  # shared by connections that never had two requests under way


class CallerConnection(HttpToolsProtocol):
    """uvicorn's protocol, with less kept for each connection, and with deadlines on the gateway's wheel.

    ``cycle`` is uvicorn's: the request that was begun last, relayed or not. ``running`` is the relayed request that
    may be answered now; the ones behind it wait in uvicorn's ``pipeline``.
    """

    # Slots: with uvicorn's own attributes together they would be too many for Python's compact layout.
    __slots__ = (
        # The connection
        "gateway",
        "wheel",
        "number",
        "deadline",
        "wakes_at",
        "write",
        "framing",
        "_over_limit",
        "_ending",
        # The request
        "running",
    )

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        # Made when needed, because a parser takes as much memory as all the rest.
        self.parser = None  # type: ignore[assignment]
        self.framing = NOT_STARTED
        self.pipeline = NO_PIPELINE
        self.gateway: Gateway = config.gateway  # type: ignore[attr-defined]
        self.wheel = self.gateway.wheel
        self.number = next(self.gateway.connection_numbers)
        self.deadline = math.inf
        self.wakes_at = 0.0
        self._over_limit = False  # beyond the limit of connections: see ``connection_limit``
        self._ending = False  # the last response is written, so nothing more is read
        self.running: Exchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # Not uvicorn's own, which asks the system for addresses that only an application's scope needs.
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)  # type: ignore[assignment]
        self.write = partial(LoopBatch.write, self.gateway.loop_batch, transport)
        gateway = self.gateway
        gateway.connections += 1
        if gateway.connections > gateway.connection_limit.most and not gateway.connection_limit.admit(self):
            self._over_limit = True
            self.start_parser().in_message = True  # the head is parsed, even one that the cache has
            self.arm(min(HEAD_S, gateway.timeouts.header_s))
        else:
            self.arm(gateway.timeouts.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        gateway = self.gateway
        gateway.loop_batch.read_on()
        gateway.connections -= 1
        self.wheel.remove(self)
        if self._over_limit:
            gateway.connection_limit.forget(self)
        running, self.running = self.running, None
        if running is not None:
            running.caller_left()
        gateway.bodies.drop(self.cycle)  # if its turn never came
        super().connection_lost(exc)
        # These point back here. Without them the connection is freed at once, not by the garbage collector.
        self.cycle = None  # type: ignore[assignment]
        framing, self.framing = self.framing, NOT_STARTED
        if framing is not NOT_STARTED:
            framing.stop()

    def start_parser(self) -> RequestGuard:
        """Make the parser, when the first request has to be parsed."""
        self.framing = framing = RequestGuard()
        framing.start(self)
        return framing

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.running is not None:
            self.running.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.running is not None:
            self.running.resume()

    def shutdown(self, *, waited: bool = False) -> None:
        """End the connection, but after a request that is under way, in its head, or perhaps not yet received.

        A caller sends its first request as soon as it is connected. ``waited``: there was time for that.
        """
        if self.running is not None and not self.running.response_complete:
            self.running.keep_alive = False
        elif self.cycle is None and not (waited or self._over_limit or self.framing.in_head):
            self.loop.call_later(_FIRST_S, partial(self.shutdown, waited=True))
        elif not self.framing.in_head:
            super().shutdown()

    def gateway_stops(self) -> None:
        """Break off whatever goes on here."""
        if self.running is not None:
            self.running.gateway_stops()
        if not self.transport.is_closing():
            self.transport.abort()

    # Called by an exchange

    def arm(self, seconds: float) -> None:
        """Set the connection's one deadline: what it waits for now must come within ``seconds``."""
        self.wheel.set(self, seconds)

    def writelines(self, pieces: Iterable[Data]) -> None:
        self.gateway.loop_batch.writelines(self.transport, pieces)

    def reset(self) -> None:
        """Break the connection off. Without a length and without chunks any other end would look regular."""
        self.gateway.loop_batch.flush()
        reset(self.transport)

    @property
    def reads_slowly(self) -> bool:
        return self.flow.write_paused

    # Called by the timer wheel

    def timed_out(self) -> None:
        timeouts, running, cycle = self.gateway.timeouts, self.running, self.cycle
        if self._over_limit and cycle is None:
            self._refuse(self.gateway.connection_limit.error())
        elif running is not None and running.body_complete:
            running.timed_out()
        elif running is not None:
            running.fail(errors.request_timeout("body", timeouts.body_s))
        elif self.framing.in_head:
            self._refuse(errors.request_timeout("headers", timeouts.header_s))
        elif (
            self.framing.in_message and isinstance(cycle, RequestResponseCycle) and not cycle.response_started
        ):
            cycle.disconnected = True  # the application's answer comes too late
            self._refuse(errors.request_timeout("body", timeouts.body_s))
        else:
            self.gateway.loop_batch.close(self.transport)

    def broke(self, error: Exception) -> None:
        """``timed_out`` raised: that ends this connection's request, or the connection, and nothing else."""
        if self.running is not None and self.running.body_complete:
            self.running.broke(error)
        else:
            report(error, "a connection")
            self.transport.abort()

    # Called by the limit of connections

    @property
    def idle_since(self) -> float | None:
        """When it began to wait for a request, on the wheel's clock; None while it has one."""
        cycle = self.cycle
        if self.framing.in_message or self._ending or self.running is not None or self.deadline == math.inf:
            return None
        if cycle is not None and not cycle.response_complete:
            return None
        timeouts = self.gateway.timeouts
        return self.deadline - (timeouts.header_s if cycle is None else timeouts.keep_alive_s)

    def close_idle(self) -> None:
        self._ending = True
        self.gateway.loop_batch.close(self.transport)

    def turn_away(self, error: ApiError) -> bool:
        """Refuse a connection that has had no request yet. False where it had one."""
        if self.cycle is not None:
            return False
        self.gateway.connection_limit.forget(self)
        self._refuse(error)
        return True

    def _let_in(self) -> None:
        """Let the first request on a connection in. Raises ``ApiError`` if the connection is still one too many."""
        gateway = self.gateway
        if gateway.connections <= gateway.connection_limit.most:
            self._over_limit = False
            gateway.connection_limit.forget(self)
        elif not gateway.connection_limit.allows(self.url):
            raise gateway.connection_limit.error()

    # Refusals

    @property
    def _is_answering(self) -> bool:
        """Whether a request that was read to its end awaits its answer, from an engine or the application."""
        running, cycle = self.running, self.cycle
        if running is not None:
            return running.body_complete
        if cycle is None or cycle.response_complete:
            return False
        return isinstance(cycle, Exchange) or not cycle.disconnected

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error outside of any exchange, and close."""
        if self._ending or self.transport.is_closing():
            return
        self._ending = True
        answering = self._is_answering
        running, self.running = self.running, None
        if not answering:
            self.write(self._refusal(running, error))
            if running is not None:
                running.caller_left()
            self.gateway.loop_batch.close(self.transport)
            return
        # The caller would take another answer for the one that is under way.
        if running is not None:
            running.caller_left()
        if running is not None and running.head.http10:
            self.reset()
        else:  # answers before this one may still be on their way
            self.transport.abort()

    def _refusal(self, running: Exchange | None, error: ApiError) -> bytes:
        """The error as a response, which is also noted in the access log."""
        framing = self.framing
        if running is not None:
            request_id, target = running.caller_id, running.head.target
        else:
            # The request's own id, if its head was read so far.
            given = given_id(framing.headers) if framing.in_message else b""
            request_id, target = given or self.gateway.new_id(), framing.url
        self.gateway.stats.answered_with(error)
        shape = format_of(target.decode("latin-1"))
        body = shape.body(error, request_id)
        if running is not None:
            running.status, running.length = error.status, len(body)
        elif self.gateway.stats.access is not None:
            named = framing.url if framing.in_message else b""
            method = framing.parser.get_method() if named else b""
            self.gateway.stats.access.refused(request_id, method, named, error.status, len(body))
        headers = [
            *error.headers,
            *shape.headers(request_id),
            (b"content-type", b"application/json"),
            (b"connection", b"close"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return b"%b%b\r\n%b" % (STATUS_LINES[error.status], lines, body)
