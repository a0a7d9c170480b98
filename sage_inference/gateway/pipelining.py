"""Requests that are sent before the ones ahead of them were answered: one is parsed at a time, the rest waits."""

from __future__ import annotations

from collections import deque
from typing import Any

import httptools

from sage_inference.gateway import errors
from sage_inference.gateway.caller_connection import NO_PIPELINE, CallerConnection
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.wire.isolation import report
from sage_inference.wire.request_guard import NOT_STARTED, ProblemKind, RequestProblem

# Bytes that are read while a request is being answered. Do not lower it to 0: a client that is not read from
# cannot be seen to disconnect.
READ_AHEAD = 65536


class PipelinedConnection(CallerConnection):
    """A caller's connection, from which bytes are read ahead, and parsed one request at a time.

    The bytes behind a request stay unparsed until it is answered, and then wait for their turn in the gateway's
    ``backlog``. Therefore a caller that sends a thousand requests at once costs no more memory than its share, and
    takes no time from others. uvicorn's ``pipeline`` has at most the requests that were parsed before that.
    """

    __slots__ = (
        # The connection
        "_unread",
        "_parsed",
        "_in_backlog",
        "_next_due",
        # The read that is being parsed
        "_first_read",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread = b""  # what was read and, from ``_parsed`` on, is not parsed yet
        self._parsed = 0
        self._in_backlog = False
        self._next_due = False  # the next request of ``pipeline`` is to begin
        self._first_read = b""  # what is being parsed, if a request began with its first byte

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._next_due or self._unread:
            self._enter_backlog()

    # Bytes

    def _parse(self, data: bytes, start: int = 0) -> None:
        """Parse one request to its end. The bytes behind it wait for its answer."""
        size = len(data)
        framing = self.start_parser() if self.framing is NOT_STARTED else self.framing
        while True:
            end = framing.end_of_slice(data, start)
            self._feed(data if start == 0 and end >= size else memoryview(data)[start:end])
            start = end
            if start >= size or self._ending or self.transport.is_closing():
                self._unread = b""
                return
            # Stop behind a request, and behind one that began in this slice after the end of another.
            if not framing.in_message or (framing.begun and not self._first_read):
                break
            self._first_read = b""
        self._keep(data, start)
        # Not while it is answered: then ``on_response_complete`` enters the backlog.
        if framing.in_message or self.cycle is None or self.cycle.response_complete:
            self._enter_backlog()

    def _feed(self, data: bytes | memoryview) -> None:
        framing = self.framing
        try:
            framing.feed(data)
        except RequestProblem as problem:
            self._refuse(errors.from_problem(problem))
        except httptools.HttpParserError as error:
            self._refuse(_answer_to(error))
        else:
            running = self.running
            if running is None:
                if framing.in_head:
                    self._await_head()
                elif framing.in_message and not self.pipeline:  # a body for the application
                    self.arm(self.gateway.timeouts.body_s)
            elif not running.body_complete:
                self.arm(self.gateway.timeouts.body_s)

    def _await_head(self) -> None:
        """Bound the time and the size of a head that has begun and not ended."""
        framing, limit = self.framing, self.gateway.limits.header_bytes
        if not framing.head_bytes:
            # Behind the end of another message it is unknown how much of it is here.
            framing.head_bytes = framing.fed if self._first_read and framing.begun == 1 else 1
            self.arm(self.gateway.timeouts.header_s)
        if framing.head_bytes > limit:
            self._refuse(errors.from_problem(RequestProblem(ProblemKind.HEAD_TOO_LARGE, f"{limit} bytes")))

    def _keep(self, data: bytes, parsed: int) -> None:
        """Keep what was read, and from ``parsed`` on is not parsed yet."""
        self._unread, self._parsed = data, parsed
        if len(data) - parsed > READ_AHEAD:
            self.flow.pause_reading()

    def pause_reading(self) -> None:
        self.flow.pause_reading()

    def read_on(self) -> None:
        """Read from the caller again, unless more waits to be parsed."""
        if len(self._unread) - self._parsed <= READ_AHEAD and not self.transport.is_closing():
            self.flow.resume_reading()

    # Turns

    def _enter_backlog(self) -> None:
        if not self._in_backlog:
            self._in_backlog = True
            self.gateway.backlog.add(self)

    def go_on(self) -> None:
        """Begin the next request of those that wait here. Called by the backlog."""
        self._in_backlog = False
        if self._ending or self.transport.is_closing():
            self._unread = b""
            return
        if self.flow.write_paused:  # its caller does not read, so answers would only pile up
            return
        if self._next_due:
            self._next_due = False
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        if self._unread and (self.framing.in_message or self.cycle.response_complete):
            self._parse(self._unread, self._parsed)
        self.read_on()

    def _make_pipeline(self) -> None:
        """A request comes, maybe before the one ahead of it was answered."""
        if self.pipeline is NO_PIPELINE:
            self.pipeline = deque()

    # Ends of answers

    def ended(self, exchange: Exchange, close: bool) -> None:
        """Called by an exchange that ended. ``close``: nothing else can be sent behind its answer."""
        if exchange is self.running:
            self.running = None
        if close:
            self._ending = True
            self.wheel.remove(self)
            self.gateway.loop_batch.close(self.transport)
        elif self.pipeline or self._unread or self.framing.in_head or self.flow.read_paused:
            self.on_response_complete()
        else:
            self.wheel.set(self, self.gateway.timeouts.keep_alive_s)

    def on_response_complete(self) -> None:
        """Called for answers of the application, and for those behind which something waits."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        timeouts = self.gateway.timeouts
        if self.pipeline or self._unread:
            self._next_due = bool(self.pipeline)
            self.arm(timeouts.keep_alive_s)  # the limit for a caller that reads none of its answers
            self._enter_backlog()
            return
        self.flow.resume_reading()
        self.arm(timeouts.header_s if self.framing.in_head else timeouts.keep_alive_s)


def _answer_to(error: httptools.HttpParserError) -> ApiError:
    """The answer to a caller at whose bytes the parser stopped, or a callback of ours in it."""
    cause = error.__context__
    if isinstance(cause, ApiError):
        return cause
    if isinstance(cause, RequestProblem):
        return errors.from_problem(cause)
    if cause is None or isinstance(
        cause, httptools.HttpParserError | httptools.HttpParserUpgrade | ValueError
    ):
        return errors.from_problem(RequestProblem(ProblemKind.BAD_FRAMING))
    report(cause, "a request, before its body was read,")
    return errors.internal()
