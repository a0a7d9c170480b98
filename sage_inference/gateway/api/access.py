"""The access log's lines for requests that the application answers."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_inference.gateway.access_log import outcome, write
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.relay.heads import given_id

RELAYED = "sage.relayed"  # in a scope: the relay writes the line for this request
TENANT = "sage.tenant"  # in a scope: the name of the caller's key


class AccessMiddleware:
    """Writes a line for each request. Only ``Identified`` is outside of it, so refusals and preflights have lines too."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._gateway.stats.access is None:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, sent, complete, crashed = 0, 0, False, False

        async def watched(message: Message) -> None:
            nonlocal status, sent, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                complete = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            crashed, status = True, status or 500
            raise
        finally:
            if not scope.get(RELAYED):
                ended = "done" if complete else "cut" if status else "cancelled"
                write(
                    given_id(scope["headers"]).decode("latin-1"),
                    scope["method"],
                    scope["path"],
                    status,
                    "failed" if crashed else outcome(status, ended, placed=False),
                    tenant=scope.get(TENANT),
                    total_ms=round((time.monotonic() - began) * 1000, 3),
                    response_bytes=0 if scope["method"] == "HEAD" else sent,
                )
