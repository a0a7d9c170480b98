"""Relayed routes as an ASGI application, which serves them under other servers than the gateway's own."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from sage_inference.gateway.api.access import RELAYED
from sage_inference.gateway.body_memory import COUNTED
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.in_process import CutShortError, InProcessClient, InProcessResponse
from sage_inference.wire.message import HOP_BY_HOP, Headers

_NOT_PASSED = HOP_BY_HOP | {b"expect"}


class Relayed:
    """One route, relayed in the same way as by the gateway's own server: through its protocol."""

    def __init__(self, gateway: Gateway, callers: InProcessClient, path: str) -> None:
        self._gateway = gateway
        self._callers = callers
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = object()
        try:
            body = await self._body(receive, request)
            if body is not None:
                await self._relay(scope, receive, send, body)
        finally:
            self._gateway.bodies.drop(request)

    async def _body(self, receive: Receive, request: object) -> bytes | None:
        """The body, or as much of it as is refused for its size; None if the caller left before its end."""
        limits, bodies = self._gateway.limits, self._gateway.bodies
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > COUNTED:
                bodies.count(request, size, limits.bodies_bytes)
            if size > limits.body_bytes or not message.get("more_body", False):
                return b"".join(pieces)

    async def _relay(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        scope[RELAYED] = True
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        query = scope.get("query_string", b"")
        named = {name: quote(str(value), safe="") for name, value in scope.get("path_params", {}).items()}
        target = self._path.format(**named).encode() + (b"?" + query if query else b"")
        reply = self._callers.send(method.encode(), target, _headers(scope), body)
        leaving = asyncio.create_task(_left(receive, reply))
        try:
            # An answer that was cut short is not completed. ASGI servers close the connection then.
            with contextlib.suppress(CutShortError):
                await _pass_on(reply, send)
        finally:
            leaving.cancel()
            reply.abandon()


def _headers(scope: Scope) -> Headers:
    # Not every ASGI server checks values, in which a line break would begin another header.
    return [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in _NOT_PASSED and b"\r" not in value and b"\n" not in value
    ]


async def _left(receive: Receive, reply: InProcessResponse) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.abandon()


async def _pass_on(reply: InProcessResponse, send: Send) -> None:
    await reply.head()
    headers = list(reply.headers)
    if reply.length is not None:
        headers.append((b"content-length", b"%d" % reply.length))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    async for piece in reply:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
