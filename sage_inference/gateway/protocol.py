"""The server's protocol: takes relayed routes before an ASGI task is made, and leaves the rest to uvicorn."""

from __future__ import annotations

import math
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from sage_inference.gateway import errors
from sage_inference.gateway.body_memory import COUNTED
from sage_inference.gateway.coded_body import CodedBody
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.key_limits.limited import LimitedExchange, refusal_of
from sage_inference.gateway.pipelining import READ_AHEAD, PipelinedConnection
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import RequestHead, given_id
from sage_inference.gateway.relayed_routes import route_of
from sage_inference.requests.response_routes import ResponseRoute
from sage_inference.requests.routes import Route
from sage_inference.wire.request_guard import ProblemKind, RequestProblem


class GatewayProtocol(PipelinedConnection):
    """The connection on which a caller's requests become exchanges, or the application's.

    uvicorn keeps the order of pipelined requests. A relayed route gets an ``Exchange`` where uvicorn would put a
    request's cycle and start a task; all other routes go to the application.

    Callers send the same head over and over but for its length. A head that was parsed and found good is cached
    under its bytes, and not parsed again: see ``_begin_known``.
    """

    __slots__ = ("_body_left",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._body_left = 0  # bytes of a body that are counted, not parsed, because the cache has its head

    def data_received(self, data: bytes) -> None:
        # Every request comes through here. A request with a known head runs from here to the engine's socket
        # without a parser, a task or a future.
        batch = self.gateway.loop_batch
        if batch.defers_reads:
            batch.defer(self, data)
        elif self._body_left:
            self._continue(data)
        elif self._ending:
            return
        elif self._unread:  # bytes before these wait to be parsed, and go first
            self._keep(self._unread[self._parsed :] + data, 0)
        elif self.framing.in_message:
            self._parse(data)
        elif not ((cycle := self.cycle) is None or cycle.response_complete):  # a pipelined request
            self._keep(data, 0)
        elif not self._begin_known(data):  # nothing is under way: the first byte is the first of a request
            self._first_read = data
            self._parse(data)
            self._first_read = b""

    def _begin_known(self, data: bytes) -> bool:
        """Begin a request whose head is known, and whose body is the rest of ``data`` or longer."""
        gateway = self.gateway
        known = gateway.known_heads.get(data)
        if known is None:
            return False
        head, length, begin = known
        missing = length + begin - len(data)
        if missing < 0 or length > gateway.limits.body_bytes:  # a pipelined or a refused request: parse it
            return False
        if head.budget is None:
            exchange = gateway.exchanges.get(head.route.path, Exchange)(self, gateway, head)
        elif missing and length > COUNTED:  # parse it, because it may be refused before its body comes
            return False
        else:
            exchange = gateway.limited_exchanges[head.route.path](self, gateway, head)
        self.cycle = self.running = exchange  # type: ignore[assignment]
        if missing:
            exchange.pieces = [data[begin:]]
            exchange.size = len(data) - begin
            self._body_left = missing
            self.arm(gateway.timeouts.body_s)
        else:
            exchange.begin(data[begin:])
        return True

    def _continue(self, data: bytes) -> None:
        """Take more of a body that is counted."""
        exchange = self.running
        if exchange is None or self._ending:
            return
        self._body_left -= len(data)
        rest = b""
        if self._body_left < 0:  # the next request begins in the same read
            data, rest = data[: self._body_left], data[self._body_left :]
            self._body_left = 0
        exchange.pieces.append(data)
        exchange.size += len(data)
        if exchange.size > COUNTED and not self._count(exchange):
            return
        if self._body_left:
            self.arm(self.gateway.timeouts.body_s)
            return
        exchange.begin(_joined(exchange.pieces))
        if rest:
            self.data_received(rest)

    def _count(self, exchange: Exchange) -> bool:
        """Count the body so far with all others that are held. False if the request is refused for that."""
        try:
            self.gateway.bodies.count(exchange, exchange.size, self.gateway.limits.bodies_bytes)
        except ApiError as error:
            self._refuse(error)
            return False
        return True

    # Called by the parser

    def on_headers_complete(self) -> None:
        framing, limits = self.framing, self.gateway.limits
        if self._ending:  # it was read together with the request whose answer ended the connection
            raise RequestProblem(ProblemKind.BAD_FRAMING)
        framing.check_head(limits.headers, limits.header_bytes)
        if framing.offers:
            return
        # uvicorn's own methods read these; the parser may be another one than for the request before.
        self.parser = framing.parser
        self.url, self.headers, self.expect_100_continue = (
            framing.url,
            framing.headers,
            framing.expects_continue,
        )
        if self._over_limit:
            self._let_in()
        route, host = route_of(framing.parser.get_method(), self.url)
        if host:  # the host of the target counts, not that of the header (RFC 9112 section 3.2.2)
            self.headers = [header for header in self.headers if header[0] != b"host"]
            self.headers.append((b"host", host))
        if route is not None:
            self._begin_exchange(route)
            return
        if self.running is None:
            self.arm(math.inf)
        self._begin_scope()
        self._make_pipeline()
        super().on_headers_complete()
        if (self._over_limit or self.gateway.draining) and self.cycle is not None:
            self.cycle.keep_alive = False
        if self.pipeline:
            self.flow.resume_reading()  # uvicorn paused it; here, ``_keep`` decides

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self.framing.body_bytes += size
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif cycle.coded is not None:
            cycle.coded.take(body)
        elif not cycle.response_complete:
            cycle.pieces.append(body)
            cycle.size += size
            gateway = self.gateway
            if cycle.size > gateway.limits.body_bytes:
                raise errors.body_too_large(gateway.limits.body_bytes)
            if cycle.size > COUNTED:
                gateway.bodies.count(cycle, cycle.size, gateway.limits.bodies_bytes)
            if cycle.size > READ_AHEAD and cycle is not self.running:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        framing, cycle = self.framing, self.cycle
        framing.end()
        if framing.offers:
            return
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
            if not self.pipeline:
                self.arm(self.gateway.timeouts.keep_alive_s if cycle.response_complete else math.inf)
        elif cycle.coded is not None:
            cycle.coded.end()
        elif not cycle.response_complete:
            cycle.body_complete = True
            if cycle is self.running:
                cycle.begin(_joined(cycle.pieces))

    # Requests

    def _begin_scope(self) -> None:
        """Make the objects that uvicorn makes when a message begins, but only for the application's requests."""
        if self.scheme is None:
            transport = self.transport
            self.server, self.client = get_local_addr(transport), get_remote_addr(transport)
            self.scheme = "https" if is_ssl(transport) else "http"
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        if not given_id(headers):
            # Here, not in the application: a refusal while its body arrives must carry the same id.
            self.headers.append((b"x-request-id", self.gateway.new_id()))
            self.framing.headers = self.headers

    def _begin_exchange(self, route: Route) -> None:
        gateway = self.gateway
        try:
            tenant = gateway.guard.check(route.path, self.headers)
            if self.framing.length > gateway.limits.body_bytes:
                raise errors.body_too_large(gateway.limits.body_bytes)
        except ApiError as error:
            self._reject(route, error)
            return
        head = self._head(route, tenant, self.parser.should_keep_alive())
        if head.budget is None:
            exchange = gateway.exchanges.get(route.path, Exchange)(self, gateway, head)
        else:
            if self._may_be_long and (refusal := refusal_of(head)) is not None:
                self._reject(route, refusal, tenant)
                return
            exchange = gateway.limited_exchanges[route.path](self, gateway, head)
        exchange.pieces = []
        exchange.coded = None
        if head.codings:
            try:
                exchange.coded = CodedBody(exchange, gateway, self)
            except ApiError as error:
                self._reject(route, error)
                return
        elif self.framing.begun == 1 and self._first_read and not isinstance(route, ResponseRoute):
            # Cached for the next request. A route that names a response does not repeat: each has another id.
            self._cache_head(head)
        self._enqueue(exchange)

    def _head(self, route: Route, tenant: str, keep_alive: bool) -> RequestHead:
        http10 = self.parser.get_http_version() == "1.0"
        return RequestHead(
            route,
            self.url,
            self.headers,
            tenant,
            keep_alive=keep_alive and not http10,  # that of HTTP/1.0 is not worth its ambiguities
            http10=http10,
            cors=self.gateway.cors_headers(self.headers),
            budget=self.gateway.budgets.of(tenant),
            traced=self.gateway.tracer is not None,
        )

    def _cache_head(self, head: RequestHead) -> None:
        """Cache the head, if a request that begins with the same bytes always means the same."""
        varies = head.request_id or head.trace or self.framing.is_chunked or self.expect_100_continue
        if head.keep_alive and not varies:
            head.is_cached = self.gateway.known_heads.put(self._first_read, self.framing.length, head)

    @property
    def _may_be_long(self) -> bool:
        """Whether the body is too much to be read only to be refused, and the request may be answered now."""
        framing, before = self.framing, self.cycle
        sized = not (framing.is_chunked or self.expect_100_continue or framing.length > COUNTED)
        return not sized and (before is None or before.response_complete)

    def _reject(self, route: Route, error: ApiError, tenant: str = "") -> None:
        """Refuse before the body was read. The connection ends, because it is not known where the body does."""
        before = self.cycle
        if before is not None and not before.response_complete:
            raise error  # requests before it are under way, so ``_refuse`` has to break off
        head = self._head(route, tenant, False)
        exchange = (
            Exchange(self, self.gateway, head)
            if head.budget is None
            else LimitedExchange(self, self.gateway, head)
        )
        exchange.coded = None
        self.cycle = exchange  # type: ignore[assignment]
        self.running = exchange
        exchange.fail(error)

    def _enqueue(self, exchange: Exchange) -> None:
        before: RequestResponseCycle | Exchange | None = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        if before is None or before.response_complete:
            self._start_exchange(exchange)
        else:
            self._make_pipeline()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _start_exchange(self, exchange: Exchange) -> None:
        self.running = exchange
        if exchange.coded is not None:
            exchange.coded.start()
        if exchange.body_complete:
            exchange.begin(_joined(exchange.pieces))
        elif self.expect_100_continue and not exchange.head.http10:
            # Not sooner, because it would be inside the answer to the request before this one.
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Begin a request of the pipeline, relayed or not, when the answers before it are complete."""
        if isinstance(cycle, Exchange):
            self._start_exchange(cycle)
            if not cycle.body_complete:
                self.arm(self.gateway.timeouts.body_s)
        else:
            super()._start_asgi_task(cycle, app)
            if cycle.more_body:
                self.arm(self.gateway.timeouts.body_s)


def _joined(pieces: list[bytes]) -> bytes:
    """The body. The pieces are removed from their list, so that they take no memory beside it."""
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return body
