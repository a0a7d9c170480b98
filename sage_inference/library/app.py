"""The gateway as an ASGI application. It starts with its first request, on the event loop of that request."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Scope, Send

from sage_inference.config.settings import Settings
from sage_inference.server import RunningGateway


class GatewayApp:
    """An application to be mounted, or run by a server. Every route works as on the gateway's own server.

    A server with ASGI's lifespan starts and stops it. Mounted without lifespan, it starts with its first request, and
    ends with ``aclose`` or with its event loop.
    """

    def __init__(self, settings: Settings, admin_token: str | None = None) -> None:
        self._settings = settings
        self._admin_token = admin_token
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: _Work | None = None

    @property
    def running(self) -> RunningGateway | None:
        return self._work.gateway if self._work is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            work = self._begun()
            await work.ready.wait()
            await work.gateway.app(scope, receive, send)

    async def aclose(self) -> None:
        """Stop: end running requests, and no longer probe engines. The next request starts it again."""
        work, self._work = self._work, None
        if work is not None and self._loop is asyncio.get_running_loop():
            await work.end()

    def _begun(self) -> _Work:
        loop = asyncio.get_running_loop()
        if self._work is None or self._loop is not loop:
            # Tasks and connections of another event loop cannot be used on this one.
            self._loop = loop
            self._work = _Work(RunningGateway(self._settings, admin_token=self._admin_token))
        return self._work

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._begun().ready.wait()
        await send(_complete("startup"))
        await receive()
        await self.aclose()
        await send(_complete("shutdown"))


class _Work:
    """A running gateway, in a task of its own."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.ready = asyncio.Event()
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.gateway.working():
            self.ready.set()
            await self._over.wait()

    async def end(self) -> None:
        self._over.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


def _complete(what: str) -> Message:
    return {"type": f"lifespan.{what}.complete"}
