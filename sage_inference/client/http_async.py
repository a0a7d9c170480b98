"""The HTTP transport for tasks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

from sage_inference.client.answers import Answer
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.http import answer, options, prepared, translated
from sage_inference.client.requests import Request
from sage_inference.client.servers import serves


class AsyncHttpStream:
    """The body of one answer, as it arrives."""

    def __init__(self, request: Request, response: httpx.Response, head: Answer, timeout: float) -> None:
        self.head = head
        self._request = request
        self._response = response
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with translated(self._request, self._timeout):
            async for piece in self._response.aiter_bytes():
                yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


class AsyncHttpTransport:
    """Keep-alive connections of one event loop. In another loop, or after a fork, the transport makes new ones."""

    def __init__(self) -> None:
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def send(self, request: Request, timeout: float) -> Answer:
        client = self._client(request.url)
        since = time.perf_counter()
        with translated(request, timeout):
            response = await client.send(prepared(client, request, timeout))
        return answer(request, response, response.content, since)

    async def open(self, request: Request, timeout: float) -> AsyncHttpStream:
        client = self._client(request.url)
        since = time.perf_counter()
        with translated(request, timeout):
            response = await client.send(prepared(client, request, timeout), stream=True)
            body = await response.aread() if response.is_error else b""
        return AsyncHttpStream(request, response, answer(request, response, body, since), timeout)

    async def serves(self, endpoint: Endpoint, kind: str) -> bool:
        return await serves(endpoint.url, endpoint.api_key, kind)

    async def details(self) -> dict[str, Any]:
        return {}

    async def aclose(self) -> None:
        clients, self._clients = self._clients, {}
        if self._home == (os.getpid(), asyncio.get_running_loop()):
            for client in clients.values():
                await client.aclose()

    def _client(self, url: str) -> httpx.AsyncClient:
        home = os.getpid(), asyncio.get_running_loop()
        if self._home != home:
            self._home, self._clients = home, {}
        client = self._clients.get(url)
        if client is None:
            client = self._clients[url] = httpx.AsyncClient(**options(url))
        return client
