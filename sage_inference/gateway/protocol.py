"""The server's protocol: takes relayed routes before an ASGI task is made, and leaves the rest to uvicorn."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sage_inference.control_plane.routes import ROUTES, Route
from sage_inference.gateway import errors
from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
from sage_inference.gateway.embeddings.request import ROUTES as MERGED
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import STATUS_LINES

if TYPE_CHECKING:
    from uvicorn.config import Config

    from sage_inference.gateway.state import Gateway

_HOT = {path.encode(): route for path, route in ROUTES.items()}


class GatewayProtocol(HttpToolsProtocol):
    """One caller's connection.

    uvicorn parses and keeps the order of pipelined requests. A relayed route gets an ``Exchange`` where
    uvicorn would put a request's cycle and start a task; all other routes go to the application.
    """

    deadline = math.inf
    wakes_at = 0

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.gateway: Gateway = config.gateway  # type: ignore[attr-defined]
        self.wheel = self.gateway.wheel
        self.running: Exchange | None = None  # whose turn it is
        self.url = b""
        self._head_bytes = 0
        self._in_head = False
        self._refused = False
        self._slow = False

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        gateway = self.gateway
        gateway.connections += 1
        if gateway.connections > gateway.limits.connections:
            self._refuse(errors.too_many_connections())
        else:
            self.arm(gateway.timeouts.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.connections -= 1
        self.wheel.remove(self)
        running, self.running = self.running, None
        if running is not None:
            running.caller_left()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # we offer no other protocol: the request was answered as if it had not asked
        except ApiError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            self._refuse(
                error.__context__ if isinstance(error.__context__, ApiError) else errors.bad_framing()
            )
        else:
            running = self.running
            if running is None:
                if self._in_head:
                    self._await_head()
            elif not running.whole:
                self.arm(self.gateway.timeouts.body_s)

    def _await_head(self) -> None:
        """A head has begun and not ended: it has its time and its size."""
        if not self._head_bytes:
            self._head_bytes = 1
            self.arm(self.gateway.timeouts.header_s)
        elif self._head_bytes > self.gateway.limits.header_bytes:
            self._refuse(errors.headers_too_large(f"{self.gateway.limits.header_bytes} bytes"))

    def pause_writing(self) -> None:
        self._slow = True
        if self.running is not None:
            self.running.pause()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._slow = False
        if self.running is not None:
            self.running.resume()
        super().resume_writing()

    def shutdown(self) -> None:
        if self.running is not None and not self.running.response_complete:
            self.running.keep_alive = False
        else:
            super().shutdown()

    # The parser

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.headers) > self.gateway.limits.headers:
            raise errors.headers_too_large(f"{self.gateway.limits.headers} headers")
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > self.gateway.limits.header_bytes:
            raise errors.headers_too_large(f"{self.gateway.limits.header_bytes} bytes")
        route = self._route()
        if route is None:
            self.arm(math.inf)
            self._begin_scope()
            super().on_headers_complete()
        else:
            self._begin_exchange(route)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.pieces.append(body)
            cycle.size += len(body)
            if cycle.size > self.gateway.limits.body_bytes:
                raise errors.body_too_large(self.gateway.limits.body_bytes)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.whole = True
            if cycle.turn:
                cycle.begin()

    # Requests

    def _route(self) -> Route | None:
        path, _, _ = self.url.partition(b"?")
        if path[:1] != b"/":  # absolute form: http://host/path
            path = httptools.parse_url(self.url).path or b"/"
        route = _HOT.get(path)
        if route is None or self.parser.get_method() != route.method.encode():
            return None
        return route

    def _begin_scope(self) -> None:
        """What uvicorn prepares at a message's begin, made only for the requests that need it."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)

    def _begin_exchange(self, route: Route) -> None:
        gateway, parser = self.gateway, self.parser
        http10 = parser.get_http_version() == "1.0"
        try:
            tenant = gateway.guard.check(route.path, self.headers)
            self._check_length()
        except ApiError as error:
            self._reject(route, error, http10)
            return
        exchange = self._exchange(route, tenant, http10, parser.should_keep_alive())
        if self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._enqueue(exchange)

    def _exchange(self, route: Route, tenant: str, http10: bool, keep_alive: bool) -> Exchange:
        # HTTP/1.0's own keep-alive is not worth its ambiguities.
        keep = keep_alive and not http10 and not self.gateway.draining
        made = EmbeddingExchange if route.path in MERGED else Exchange
        return made(self, self.gateway, route, self.url, self.headers, tenant, keep_alive=keep, http10=http10)

    def _reject(self, route: Route, error: ApiError, http10: bool) -> None:
        """Refuse before the body was read: there is no telling its end from here, so the connection ends."""
        exchange = self._exchange(route, "", http10, False)
        before = self.cycle
        if before is not None and not before.response_complete:
            raise error  # requests before it are under way: none of the rest of this connection is served
        self.cycle = exchange  # type: ignore[assignment]
        self.running = exchange
        exchange.answer(error)

    def _check_length(self) -> None:
        for name, value in self.headers:
            if name == b"content-length" and int(value) > self.gateway.limits.body_bytes:
                raise errors.body_too_large(self.gateway.limits.body_bytes)

    def _enqueue(self, exchange: Exchange) -> None:
        before: RequestResponseCycle | Exchange | None = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start_exchange(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _start_exchange(self, exchange: Exchange) -> None:
        self.running = exchange
        exchange.turn = True
        if exchange.whole:
            exchange.begin()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's way to begin a request whose turn has come; ours may be among them."""
        if isinstance(cycle, Exchange):
            self._start_exchange(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._in_head:
            self.arm(self.gateway.timeouts.header_s)
        else:
            self.arm(self.gateway.timeouts.keep_alive_s)

    # What an exchange asks of its caller

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def arm(self, seconds: float) -> None:
        """One deadline a connection: whatever it waits for now must come within ``seconds``."""
        if seconds == math.inf:
            self.wheel.remove(self)
        else:
            self.wheel.set(self, seconds)

    def ended(self, exchange: Exchange, close: bool) -> None:
        if exchange is self.running:
            self.running = None
        if close:
            self._refused = True
            self.wheel.remove(self)
            self.transport.close()
        else:
            self.on_response_complete()

    @property
    def reads_slowly(self) -> bool:
        return self._slow

    # Ends

    def timed_out(self) -> None:
        timeouts, running = self.gateway.timeouts, self.running
        if running is not None and running.whole:
            running.timed_out()
        elif running is not None:
            running.answer(errors.request_timeout("body", timeouts.body_s))
        elif self._in_head:
            self._refuse(errors.request_timeout("headers", timeouts.header_s))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of any exchange, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        running, self.running = self.running, None
        if running is not None:
            if running.whole:  # its answer is under way: another would be taken for it
                running.caller_left()
                self.transport.abort()
                return
            running.caller_left()
        body = error.body()
        self.transport.write(
            STATUS_LINES[error.status]
            + b"".join(b"%b: %b\r\n" % header for header in error.headers)
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self.transport.close()
