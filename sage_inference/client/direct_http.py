"""A transport over plain sockets. It suits programs that start, ask once and end.

The import of httpx takes longer than a short answer. This transport has a connection for each request, no proxy, and
loads ``ssl`` for https only.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

import httptools

from sage_inference.client.answers import Answer
from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError
from sage_inference.client.requests import Request
from sage_inference.netloc import netloc

if TYPE_CHECKING:
    from sage_inference.client.http_sync import HttpTransport

_CONNECT_S = 10.0
_READ = 65536
_LONGEST_HEAD = 1 << 20
_PORTS = {"http": 80, "https": 443}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class DirectStream:
    """One answer: its head, then its body as it arrives. ``close`` before the end makes the server stop."""

    def __init__(self, request: Request, sock: socket.socket, timeout: float, began: float) -> None:
        self._request = request
        self._sock = sock
        self._timeout = timeout
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._head_size = 0
        self._status = 0  # of the final head; 0 before it is complete
        self._over = False
        while not self._status:
            self._read()
        body = b"".join(self) if self._status >= 400 else b""
        took = (time.perf_counter() - began) * 1000
        self.head = Answer(self._status, self._headers, body, request.request_id, took)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            pieces, self._pieces = self._pieces, []
            yield from pieces
            if self._over and not self._pieces:
                return
            if not self._pieces:
                self._read()

    def close(self) -> None:
        self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except TimeoutError:
            raise InferenceTimeoutError(
                f"{self._request.url} sent nothing for {self._timeout:g} s",
                request_id=self._request.request_id,
            ) from None
        except OSError as error:
            raise self._broken(_reason(error)) from None
        if not data:
            self._end()
            return
        if not self._status:
            self._head_size += len(data)
            if self._head_size > _LONGEST_HEAD:
                raise self._broken("the head of its answer has no end")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._over:  # bytes behind the answer are nobody's
                raise self._broken(f"its answer is no valid HTTP ({error})") from None

    def _end(self) -> None:
        """The server has closed the connection, which ends a body of undeclared length (RFC 9112 section 6.3)."""
        declared = "content-length" in self._headers or "transfer-encoding" in self._headers
        if not self._status:
            raise self._broken("it closed the connection without an answer")
        if declared and not self._over:
            raise self._broken("it closed the connection before its answer ended")
        self._over = True

    def _broken(self, reason: str) -> InferenceConnectionError:
        return InferenceConnectionError(
            f"{self._request.url} broke off: {reason}", request_id=self._request.request_id
        )

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # later ones are trailers
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # a final answer follows
            self._headers = {}
        elif not self._status:
            self._status = status

    def on_body(self, body: bytes) -> None:
        if not self._over:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            self._over = True


class DirectTransport:
    """Sends requests to any number of servers."""

    def send(self, request: Request, timeout: float) -> Answer:
        """The whole answer."""
        began = time.perf_counter()
        stream = self.open(request, timeout)
        try:
            body = stream.head.body or b"".join(stream)
        finally:
            stream.close()
        took = (time.perf_counter() - began) * 1000
        return Answer(stream.head.status, stream.head.headers, body, request.request_id, took)

    def open(self, request: Request, timeout: float) -> DirectStream:
        """``timeout``: seconds of silence. Raises ``SageInferenceError`` only."""
        began = time.perf_counter()
        sock = _connected(request, timeout)
        try:
            with suppress(OSError):  # a server may answer before it has read the whole body
                sock.sendall(_head(request))
                sock.sendall(request.body or b"")
            return DirectStream(request, sock, timeout, began)
        except BaseException:
            sock.close()
            raise


def transport_to(url: str) -> DirectTransport | HttpTransport:
    """The lightest transport that can reach ``url``: through a proxy only httpx can."""
    named = any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES)
    if not named or urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        return DirectTransport()
    from sage_inference.client.http_sync import HttpTransport

    return HttpTransport()


def _connected(request: Request, timeout: float) -> socket.socket:
    parts = urlsplit(request.url)
    sock: socket.socket | None = None
    try:
        address = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        sock = socket.create_connection(address, min(timeout, _CONNECT_S))
        if parts.scheme == "https":
            from sage_inference.client.trusted import context_for

            sock = context_for(request.url).wrap_socket(sock, server_hostname=parts.hostname)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        raise InferenceConnectionError(
            f"{request.url} cannot be reached: {_reason(error, parts)}", request_id=request.request_id
        ) from None
    return sock


def _reason(error: Exception, parts: SplitResult | None = None) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S:g} s"
    if parts is not None and parts.scheme == "https":
        from sage_inference import trust

        if (reason := trust.explain(error)) is not None:
            return reason
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _head(request: Request) -> bytes:
    parts = urlsplit(request.url)
    port = parts.port or _PORTS[parts.scheme]
    headers = {
        "host": netloc(parts.hostname or "", port),
        "connection": "close",
        "x-request-id": request.request_id,
        **request.headers,
    }
    if request.body is not None:
        headers["content-length"] = str(len(request.body))
    lines = [f"{'GET' if request.body is None else 'POST'} {parts.path}{request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
