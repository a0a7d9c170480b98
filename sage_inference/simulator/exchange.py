"""A received request, and the writer of its reply."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from sage_inference.simulator.protocol import Connection

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def shows(self, key: str | None) -> bool:
        """Whether the request shows this key. It may do without one if there is none."""
        given = self.header(b"authorization") or b""
        return key is None or hmac.compare_digest(given, b"Bearer " + key.encode())

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.query_string.decode("latin-1")))


class Reply:
    """Writes one response: either ``whole``, or ``begin``, any number of ``event`` and ``end``.

    ``headers`` are sent with every response to this request.
    """

    def __init__(self, connection: Connection, send: Send, headers: Headers = ()) -> None:
        self.connection = connection
        self.headers = list(headers)
        self.status = 0
        self._send = send

    async def whole(
        self, status: int, body: bytes, content_type: bytes | None = JSON, headers: Headers = ()
    ) -> None:
        await self._start(
            status, [*self._lead(content_type), (b"content-length", b"%d" % len(body)), *headers]
        )
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, content_type: bytes = EVENTS) -> None:
        await self._start(200, [*self._lead(content_type), (b"transfer-encoding", b"chunked")])

    async def event(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _lead(self, content_type: bytes | None) -> list[tuple[bytes, bytes]]:
        return [*self.headers, (b"content-type", content_type)] if content_type else self.headers

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def raw_head(connection: Connection, status: int, headers: Headers) -> bytes:
    """A response's head, with the headers that uvicorn would add. It is used to write without uvicorn."""
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    every = [*connection.server_state.default_headers, *headers]
    lines += [name + b": " + value for name, value in every]
    return b"\r\n".join(lines) + b"\r\n\r\n"
