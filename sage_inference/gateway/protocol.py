"""The server's protocol: takes relayed routes before an ASGI task is made, and leaves the rest to uvicorn."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from sage_inference.gateway import errors
from sage_inference.gateway.bodies import COUNTED
from sage_inference.gateway.coded_body import CodedBody
from sage_inference.gateway.connection_limit import HEAD_S
from sage_inference.gateway.error_formats import format_of
from sage_inference.gateway.errors import ApiError
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.heads import STATUS_LINES, RequestHead, given_id
from sage_inference.requests.response_routes import PREFIX as RESPONSES
from sage_inference.requests.response_routes import ResponseRoute, response_route
from sage_inference.requests.routes import ROUTES, Route
from sage_inference.wire.flow import Flow, reset
from sage_inference.wire.isolation import report
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.message import Data

if TYPE_CHECKING:
    from uvicorn.config import Config

    from sage_inference.gateway.gateway import Gateway

_HOT = {path.encode(): route for path, route in ROUTES.items()}
_HOST = re.compile(rb"(?:[\w.~%!$&'()*+;=-]*|\[[\da-fA-F:.%\w]+\])(?::\d*)?")
# Limits of the framing of a chunked body: so much a chunk, and so much in extensions and trailers.
_CHUNK_BYTES = 32
_EXTRA_BYTES = 16384
_VERSIONS = ("1.0", "1.1")
# Headers that llhttp heeds even in a trailer, after all was decided.
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"proxy-connection", b"upgrade")
# Small chunks cost a call each, so each takes as many bytes of this, and each byte of the body gives one back.
_GRAIN_BYTES = 64
_GRAINS = 8192 * _GRAIN_BYTES
# Bytes that are read while a request is being answered. Do not lower it to 0: a client that is not read from
# cannot be seen to disconnect.
_AHEAD = 65536
# Bytes that are parsed at once of a head, and of a body in chunks.
_HEAD_SLICE, _CHUNK_SLICE = 4096, 1024
_BLANK_LINES = re.compile(rb"[\r\n]*")
_HEAD_END = b"\r\n\r\n"


_NOBODY: deque[Any] = deque()  # the pipeline of those who never had two requests under way


def _answer_to(error: httptools.HttpParserError) -> ApiError:
    """The answer to a caller at whose bytes the parser stopped, or one of our callbacks in it."""
    cause = error.__context__
    if isinstance(cause, ApiError):
        return cause
    if cause is None or isinstance(
        cause, httptools.HttpParserError | httptools.HttpParserUpgrade | ValueError
    ):
        return errors.bad_framing()
    report(cause, "a request, before its body was read,")
    return errors.internal()


class GatewayProtocol(HttpToolsProtocol):
    """One caller's connection.

    uvicorn parses and keeps the order of pipelined requests. A relayed route gets an ``Exchange`` where
    uvicorn would put a request's cycle and start a task; all other routes go to the application.

    Callers send the same head over and over but for its length. One that was parsed and found good is
    remembered by its bytes, and what it means need not be found out again: see ``_begin_known``.
    """

    # Slots: with uvicorn's own attributes together they would be too many for Python's compact layout.
    __slots__ = (
        "_begun",
        "_chunked",
        "_due",
        "_extra",
        "_fed",
        "_grain",
        "_head_bytes",
        "_host",
        "_in_head",
        "_in_message",
        "_left",
        "_length",
        "_missing",
        "_offers",
        "_parsed",
        "_queued",
        "_received",
        "_refused",
        "_slow",
        "_spare",
        "_unread",
        "deadline",
        "gateway",
        "running",
        "url",
        "wakes_at",
        "wheel",
        "write",
    )

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        # Made when needed: each takes as much as all the rest.
        self.parser = None  # type: ignore[assignment]
        self.pipeline = _NOBODY
        self.gateway: Gateway = config.gateway  # type: ignore[attr-defined]
        self.wheel = self.gateway.wheel
        self.deadline = math.inf
        self.wakes_at = 0.0
        self.running: Exchange | None = None  # whose turn it is
        self.url = b""
        self._host = b""  # the last one found well-formed
        self._length = 0
        self._head_bytes = 0
        self._in_head = False
        self._fed = 0  # bytes being fed to the parser
        self._begun = 0  # messages that began in them
        self._spare = 0  # bytes that the framing of a chunked body may still cost
        self._grain = 0  # what its small chunks may still cost
        self._left = 0  # bytes of a body of known length that are still to be parsed
        self._unread = b""  # what was read and, from ``_parsed`` on, is not parsed yet
        self._parsed = 0
        self._queued = False  # whether it waits in the backlog
        self._due = False  # whether the first of the pipeline is to begin
        self._chunked = False
        self._offers = False  # another protocol: the head is parsed a second time, without the offer
        self._refused = False
        self._slow = False
        self._extra = False  # beyond the limit of connections: see ``connection_limit``
        self._in_message = False
        self._missing = 0  # bytes of a body that is counted, not parsed
        self._received = b""  # what is being fed to the parser, where a message began with it

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # uvicorn's own asks the system for addresses that only an application's scope needs: see ``_begin_scope``.
        self.connections.add(self)
        self.transport = transport
        self.flow = Flow(transport)  # type: ignore[assignment]
        self.write = partial(LoopBatch.write, self.gateway.turn, transport)
        gateway = self.gateway
        gateway.connections += 1
        if gateway.connections > gateway.connection_limit.most and not gateway.connection_limit.admit(self):
            self._extra = self._in_message = True  # its head is parsed, not recalled
            self.headers = []
            self.arm(min(HEAD_S, gateway.timeouts.header_s))
        else:
            self.arm(gateway.timeouts.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        self.gateway.turn.read_on()
        self.gateway.connections -= 1
        self.wheel.remove(self)
        if self._extra:
            self.gateway.connection_limit.forget(self)
        running, self.running = self.running, None
        if running is not None:
            running.caller_left()
        self.gateway.bodies.drop(self.cycle)  # where its turn never came
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment] # it points back here: freed at once, not by the collector

    def data_received(self, data: bytes) -> None:
        turn = self.gateway.turn
        if turn.holds_reads:
            turn.hold(self, data)
        elif self._missing:
            self._continue(data)
        elif self._refused:
            return
        elif self._unread:
            self._keep(self._unread[self._parsed :] + data, 0)
        elif self._in_message:
            self._parse(data)
        elif not ((cycle := self.cycle) is None or cycle.response_complete):
            self._keep(data, 0)
        elif not self._begin_known(data):  # nothing is under way: the first byte is the first of a request
            self._received = data
            self._parse(data)
            self._received = b""

    def _begin_known(self, data: bytes) -> bool:
        """Begin a request whose head is known, and whose body is the rest of ``data`` or longer."""
        gateway = self.gateway
        known = gateway.known_heads.recall(data)
        if known is None:
            return False
        head, length, begin = known
        missing = length + begin - len(data)
        if missing < 0 or length > gateway.limits.body_bytes:
            return False
        exchange = gateway.exchanges.get(head.route.path, Exchange)(self, gateway, head)
        self.cycle = self.running = exchange  # type: ignore[assignment]
        if missing:
            exchange.pieces = [data[begin:]]
            exchange.size = len(data) - begin
            self._missing = missing
            self.arm(gateway.timeouts.body_s)
        else:
            exchange.begin(data[begin:])
        return True

    def _continue(self, data: bytes) -> None:
        """More of a body that is counted."""
        exchange = self.running
        if exchange is None or self._refused:
            return
        self._missing -= len(data)
        rest = b""
        if self._missing < 0:  # the next request came along
            data, rest = data[: self._missing], data[self._missing :]
            self._missing = 0
        exchange.pieces.append(data)
        exchange.size += len(data)
        if exchange.size > COUNTED and not self._hold(exchange):
            return
        if self._missing:
            self.arm(self.gateway.timeouts.body_s)
            return
        exchange.begin(_joined(exchange.pieces))
        if rest:
            self.data_received(rest)

    def _hold(self, exchange: Exchange) -> bool:
        """Count its body with all others that are held; False where it is refused for that."""
        try:
            self.gateway.bodies.hold(exchange, exchange.size, self.gateway.limits.bodies_bytes)
        except ApiError as error:
            self._refuse(error)
            return False
        return True

    def _parse(self, data: bytes, start: int = 0) -> None:
        """Parse one request to its end. The bytes behind it wait for its answer."""
        size = len(data)
        while True:
            end = self._end_of_slice(data, start)
            self._feed(data if start == 0 and end >= size else memoryview(data)[start:end])
            start = end
            if start >= size or self._refused or self.transport.is_closing():
                self._unread = b""
                return
            if not self._in_message or (self._begun and not self._received):
                break
            self._received = b""
        self._keep(data, start)
        if self._in_message or self.cycle is None or self.cycle.response_complete:
            self._await_turn()

    def _end_of_slice(self, data: bytes, start: int) -> int:
        """The rest of a body of known length, or little more than a head: no two requests begin in it."""
        if self._left > 0:
            return start + self._left
        if self._chunked:
            return start + _CHUNK_SLICE
        if not self._in_message:
            start = _BLANK_LINES.match(data, start).end()  # type: ignore[union-attr]
        found = data.find(_HEAD_END, start, start + _HEAD_SLICE)
        return start + _HEAD_SLICE if found < 0 else found + 4

    def _keep(self, data: bytes, parsed: int) -> None:
        """Requests that were sent before the one ahead of them was answered."""
        self._unread, self._parsed = data, parsed
        if len(data) - parsed > _AHEAD:
            self.flow.pause_reading()

    def _await_turn(self) -> None:
        if not self._queued:
            self._queued = True
            self.gateway.backlog.add(self)

    def go_on(self) -> None:
        """Begin the next request of those that wait here."""
        self._queued = False
        if self._refused or self.transport.is_closing():
            self._unread = b""
            return
        if self._slow:  # its answers would only gather
            return
        if self._due:
            self._due = False
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        if self._unread and (self._in_message or self.cycle.response_complete):
            self._parse(self._unread, self._parsed)
        self.read_on()

    def read_on(self) -> None:
        """Read from the caller again, unless more waits to be parsed."""
        if len(self._unread) - self._parsed <= _AHEAD and not self.transport.is_closing():
            self.flow.resume_reading()

    def pause_reading(self) -> None:
        self.flow.pause_reading()

    def _feed(self, data: bytes | memoryview) -> None:
        if self.parser is None:
            self._renew_parser()
        self._fed = len(data)
        self._begun = 0
        if self._in_head:
            self._head_bytes += self._fed
        elif self._chunked:
            self._spare -= self._fed
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._pass_over_offer(memoryview(data)[upgrade.args[0] :])
        except ApiError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            self._refuse(_answer_to(error))
        else:
            running = self.running
            if self._chunked and (self._spare < 0 or self._grain < 0):
                self._refuse(errors.chunks_too_small() if self._grain < 0 else errors.bad_framing())
            elif running is None:
                if self._in_head:
                    self._await_head()
                elif self._in_message and not self.pipeline:  # a body for the application
                    self.arm(self.gateway.timeouts.body_s)
            elif not running.whole:
                self.arm(self.gateway.timeouts.body_s)

    def _renew_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _pass_over_offer(self, rest: memoryview) -> None:
        """A head asked for another protocol: parse it as if it had not, because httptools leaves its body unread."""
        while True:
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            self._renew_parser()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)))
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    def _await_head(self) -> None:
        """A head has begun and not ended: it has its time and its size."""
        if not self._head_bytes:
            # Behind the end of another message it is unknown how much of it is here.
            self._head_bytes = self._fed if self._received and self._begun == 1 else 1
            self.arm(self.gateway.timeouts.header_s)
        if self._head_bytes > self.gateway.limits.header_bytes:
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
        if self._due or self._unread:
            self._await_turn()
        super().resume_writing()

    def shutdown(self) -> None:
        if self.running is not None and not self.running.response_complete:
            self.running.keep_alive = False
        else:
            super().shutdown()

    def gateway_stops(self) -> None:
        """Nothing goes on from here."""
        if self.running is not None:
            self.running.gateway_stops()
        if not self.transport.is_closing():
            self.transport.abort()

    # The parser

    def on_message_begin(self) -> None:
        if self._refused:
            raise errors.bad_framing()  # it came along with the request whose answer ended the connection
        self._begun += 1
        self._in_message = True
        self._in_head = True
        self._chunked = False
        self._left = 0
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if not self._in_head:
            if name in _FRAMING:
                raise errors.bad_framing()
            return  # a trailer: it comes after all checks of the head, and no engine needs one
        if name == b"expect" and value:
            if value.lower() != b"100-continue":
                raise errors.unmet_expectation(value)
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._offers = self.parser.should_upgrade()
        if self._offers:
            if self.parser.get_method() == b"CONNECT":
                raise errors.bad_framing()
            return
        if len(self.headers) > self.gateway.limits.headers:
            raise errors.headers_too_large(f"{self.gateway.limits.headers} headers")
        self._check_head()
        if self._extra:
            self._let_in()
        route = self._route()
        if route is None:
            if self.running is None:
                self.arm(math.inf)
            self._begin_scope()
            self._line_up()
            super().on_headers_complete()
            if self._extra and self.cycle is not None:
                self.cycle.keep_alive = False
            if self.pipeline:
                self.flow.resume_reading()
        else:
            self._begin_exchange(route)

    def _check_head(self) -> None:
        """Refuse what two readers of the same bytes might understand in two ways (RFC 9112 section 11.2)."""
        version = self.parser.get_http_version()
        hosts = self._length = 0
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
                if value != self._host:
                    if not _HOST.fullmatch(value):
                        raise errors.bad_framing()
                    self._host = value
            elif name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                if self._chunked or version != "1.1":
                    raise errors.bad_framing()
                if value.lower() != b"chunked":
                    raise errors.unread_transfer_coding(value)
                self._chunked = True
        if hosts > 1 or (not hosts and version == "1.1") or version not in _VERSIONS or b"#" in self.url:
            raise errors.bad_framing()
        if size > self.gateway.limits.header_bytes:
            raise errors.headers_too_large(f"{self.gateway.limits.header_bytes} bytes")
        self._left = self._length
        if self._chunked:
            self._grain = _GRAINS
            # Of several messages in one piece it is unknown which bytes belong to which.
            self._spare = _EXTRA_BYTES + size - (self._fed if self._begun == 1 else 0)

    def on_chunk_header(self) -> None:
        self._spare += _CHUNK_BYTES
        self._grain -= _GRAIN_BYTES

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._spare += size
        self._grain += size
        self._left -= size
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif cycle.coded is not None:
            cycle.coded.take(body)
        elif not cycle.response_complete:
            cycle.pieces.append(body)
            cycle.size += size
            if cycle.size > self.gateway.limits.body_bytes:
                raise errors.body_too_large(self.gateway.limits.body_bytes)
            if cycle.size > COUNTED:
                self.gateway.bodies.hold(cycle, cycle.size, self.gateway.limits.bodies_bytes)
            if cycle.size > _AHEAD and cycle is not self.running:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._in_message = False
        if self._chunked:
            self._chunked = False
            if self._spare < 0:
                raise errors.bad_framing()
        cycle = self.cycle
        if self._offers:
            return
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
            if not self.pipeline:
                self.arm(self.gateway.timeouts.keep_alive_s if cycle.response_complete else math.inf)
        elif cycle.coded is not None:
            cycle.coded.end()
        elif not cycle.response_complete:
            cycle.whole = True
            if cycle is self.running:
                cycle.begin(_joined(cycle.pieces))

    # Requests

    def _let_in(self) -> None:
        """Raises ``ApiError`` where the connection is still one too many for this request."""
        gateway = self.gateway
        if gateway.connections <= gateway.connection_limit.most:
            self._extra = False
            gateway.connection_limit.forget(self)
        elif not gateway.connection_limit.allows(self.url):
            raise gateway.connection_limit.error()

    def _route(self) -> Route | None:
        path, _, _ = self.url.partition(b"?")
        if path[:1] != b"/" and path != b"*":  # absolute form: http://host/path
            url = httptools.parse_url(self.url)
            if (url.schema or b"").lower() not in (b"http", b"https") or not url.host:
                raise errors.bad_framing()
            path = url.path or b"/"
            # The target's host counts, not that of the header (RFC 9112 section 3.2.2).
            host = b"[%b]" % url.host if b":" in url.host else url.host
            self.headers = [header for header in self.headers if header[0] != b"host"]
            self.headers.append((b"host", host if url.port is None else b"%b:%d" % (host, url.port)))
        if b"%" in path:  # the application reads escapes, and a path must not have two meanings
            path = unquote_to_bytes(path)
        route, method = _HOT.get(path), self.parser.get_method()
        if route is None and path.startswith(RESPONSES):
            return response_route(method.decode("latin-1"), path)
        if route is None or method != route.method.encode():
            return None
        return route

    def _begin_scope(self) -> None:
        """Make the objects that uvicorn prepares at a message's begin, but only for the requests that need it."""
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

    def _begin_exchange(self, route: Route) -> None:
        gateway = self.gateway
        try:
            tenant = gateway.guard.check(route.path, self.headers)
            if self._length > gateway.limits.body_bytes:
                raise errors.body_too_large(gateway.limits.body_bytes)
        except ApiError as error:
            self._reject(route, error)
            return
        head = self._head(route, tenant, self.parser.should_keep_alive())
        exchange = gateway.exchanges.get(route.path, Exchange)(self, gateway, head)
        exchange.pieces = []
        exchange.coded = None
        if head.codings:
            try:
                exchange.coded = CodedBody(exchange, gateway, self)
            except ApiError as error:
                self._reject(route, error)
                return
        elif (
            self._begun == 1 and self._received and not isinstance(route, ResponseRoute)
        ):  # those don't repeat
            self._remember(head)
        self._enqueue(exchange)

    def _line_up(self) -> None:
        """Another request comes, maybe before the one ahead of it was answered."""
        if self.pipeline is _NOBODY:
            self.pipeline = deque()

    def _head(self, route: Route, tenant: str, keep_alive: bool) -> RequestHead:
        http10 = self.parser.get_http_version() == "1.0"
        return RequestHead(
            route,
            self.url,
            self.headers,
            tenant,
            keep_alive=keep_alive and not http10,  # HTTP/1.0's own is not worth its ambiguities
            http10=http10,
            cors=self.gateway.cors_headers(self.headers),
        )

    def _remember(self, head: RequestHead) -> None:
        """Keep a head that means the same whenever these bytes come at the begin of a request."""
        if head.keep_alive and not (head.request_id or self._chunked or self.expect_100_continue):
            head.comes_again = self.gateway.known_heads.remember(self._received, self._length, head)

    def _reject(self, route: Route, error: ApiError) -> None:
        """Refuse before the body was read: there is no telling its end from here, so the connection ends."""
        before = self.cycle
        if before is not None and not before.response_complete:
            raise error  # requests before it are under way: none of the rest of this connection is served
        exchange = Exchange(self, self.gateway, self._head(route, "", False))
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
            self._line_up()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _start_exchange(self, exchange: Exchange) -> None:
        self.running = exchange
        if exchange.coded is not None:
            exchange.coded.start()
        if exchange.whole:
            exchange.begin(_joined(exchange.pieces))
        elif self.expect_100_continue and not exchange.head.http10:
            # Not before its turn: it would stand in the midst of the answer to the request before it.
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """uvicorn's way to begin a request whose turn has come; ours may be among them."""
        if isinstance(cycle, Exchange):
            self._start_exchange(cycle)
            if not cycle.whole:
                self.arm(self.gateway.timeouts.body_s)
        else:
            super()._start_asgi_task(cycle, app)
            if cycle.more_body:
                self.arm(self.gateway.timeouts.body_s)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline or self._unread:
            self._due = bool(self.pipeline)
            self.arm(self.gateway.timeouts.keep_alive_s)  # a caller that reads none of its answers
            self._await_turn()
            return
        self.flow.resume_reading()
        if self._in_head:
            self.arm(self.gateway.timeouts.header_s)
        else:
            self.arm(self.gateway.timeouts.keep_alive_s)

    # Called by an exchange

    def arm(self, seconds: float) -> None:
        """One deadline a connection: whatever it waits for now must come within ``seconds``."""
        self.wheel.set(self, seconds)

    def writelines(self, pieces: Iterable[Data]) -> None:
        self.gateway.turn.writelines(self.transport, pieces)

    def ended(self, exchange: Exchange, close: bool) -> None:
        if exchange is self.running:
            self.running = None
        if close:
            self._refused = True
            self._missing = 0
            self.wheel.remove(self)
            self.gateway.turn.close(self.transport)
        elif self.pipeline or self._unread or self._in_head or self.flow.read_paused:
            self.on_response_complete()
        else:
            self.wheel.set(self, self.gateway.timeouts.keep_alive_s)

    def reset(self) -> None:
        """Break the connection off: without a length and without chunks any other end would look regular."""
        self.gateway.turn.flush()
        reset(self.transport)

    @property
    def reads_slowly(self) -> bool:
        return self._slow

    # Ends

    def timed_out(self) -> None:
        timeouts, running, cycle = self.gateway.timeouts, self.running, self.cycle
        if self._extra and cycle is None:
            self._refuse(self.gateway.connection_limit.error())
        elif running is not None and running.whole:
            running.timed_out()
        elif running is not None:
            running.fail(errors.request_timeout("body", timeouts.body_s))
        elif self._in_head:
            self._refuse(errors.request_timeout("headers", timeouts.header_s))
        elif self._in_message and isinstance(cycle, RequestResponseCycle) and not cycle.response_started:
            cycle.disconnected = True  # the application's answer comes too late
            self._refuse(errors.request_timeout("body", timeouts.body_s))
        else:
            self.gateway.turn.close(self.transport)

    def broke(self, error: Exception) -> None:
        """An exception of our own in ``timed_out``: it ends this connection's request, or the connection."""
        if self.running is not None and self.running.whole:
            self.running.broke(error)
        else:
            report(error, "a connection")
            self.transport.abort()

    # Called by the limit of connections

    @property
    def idle_since(self) -> float | None:
        """When it began to wait for a request, on the wheel's clock; None while it has one."""
        cycle = self.cycle
        if self._in_message or self._refused or self.running is not None or self.deadline == math.inf:
            return None
        if cycle is not None and not cycle.response_complete:
            return None
        timeouts = self.gateway.timeouts
        return self.deadline - (timeouts.header_s if cycle is None else timeouts.keep_alive_s)

    def close_idle(self) -> None:
        self._refused = True
        self.gateway.turn.close(self.transport)

    def turn_away(self, error: ApiError) -> bool:
        """Refuse a request that was not let in yet. False where one is being answered."""
        if self.cycle is not None:
            return False
        self.gateway.connection_limit.forget(self)
        self._refuse(error)
        return True

    @property
    def _answering(self) -> bool:
        """Whether a request that is here as a whole awaits its answer, from an engine or the application."""
        running, cycle = self.running, self.cycle
        if running is not None:
            return running.whole
        if cycle is None or cycle.response_complete:
            return False
        return isinstance(cycle, Exchange) or not cycle.disconnected

    def _refuse(self, error: ApiError) -> None:
        """Answer outside of any exchange, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        answering = self._answering
        running, self.running = self.running, None
        if answering:  # another answer would be taken for the one under way
            if running is not None:
                running.caller_left()
            if running is not None and running.head.http10:
                self.reset()
            else:  # answers before this one may still be on their way
                self.transport.abort()
            return
        request_id = self._id_of(running)
        target = self.url if running is None else running.head.target
        shape = format_of(target.decode("latin-1"))
        body = shape.body(error, request_id)
        if running is not None:
            running.status, running.length = error.status, len(body)
        elif self.gateway.stats.access is not None:
            begun = self.parser is not None and self._in_message and self.url
            method, named = (self.parser.get_method(), self.url) if begun else (b"", b"")
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
        self.write(b"%b%b\r\n%b" % (STATUS_LINES[error.status], lines, body))
        if running is not None:
            running.caller_left()
        self.gateway.turn.close(self.transport)

    def _id_of(self, running: Exchange | None) -> bytes:
        """The id of the request that is refused: its own, so far as its head was read, or a new one."""
        if running is not None:
            return running.caller_id
        given = given_id(self.headers) if self._in_message else b""
        return given or self.gateway.new_id()


def _joined(pieces: list[bytes]) -> bytes:
    """The body, of which the pieces are let go."""
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return body
