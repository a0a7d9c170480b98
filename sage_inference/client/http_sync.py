"""The HTTP transport for threads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx

from sage_inference.client.answers import Answer
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.http import answer, options, prepared, translated
from sage_inference.client.requests import Request
from sage_inference.client.run_in_thread import run_apart
from sage_inference.client.servers import serves


class HttpStream:
    """The body of one answer, as it arrives."""

    def __init__(self, request: Request, response: httpx.Response, head: Answer, timeout: float) -> None:
        self.head = head
        self._request = request
        self._response = response
        self._timeout = timeout

    def __iter__(self) -> Iterator[bytes]:
        with translated(self._request, self._timeout):
            yield from self._response.iter_bytes()

    def close(self) -> None:
        self._response.close()


class HttpTransport:
    """Keep-alive connections to any number of servers. Thread-safe.

    After a fork the child makes connections of its own, because two processes would mix their bytes on one.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._clients: dict[str, httpx.Client] = {}

    def send(self, request: Request, timeout: float) -> Answer:
        client = self._client(request.url)
        since = time.perf_counter()
        with translated(request, timeout):
            response = client.send(prepared(client, request, timeout))
        return answer(request, response, response.content, since)

    def open(self, request: Request, timeout: float) -> HttpStream:
        client = self._client(request.url)
        since = time.perf_counter()
        with translated(request, timeout):
            response = client.send(prepared(client, request, timeout), stream=True)
            body = response.read() if response.is_error else b""
        return HttpStream(request, response, answer(request, response, body, since), timeout)

    def serves(self, endpoint: Endpoint, kind: str) -> bool:
        return run_apart(serves(endpoint.url, endpoint.api_key, kind))

    def details(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        clients, self._clients = self._clients, {}
        if os.getpid() == self._pid:
            for client in clients.values():
                client.close()

    def _client(self, url: str) -> httpx.Client:
        if os.getpid() != self._pid:
            self._pid, self._clients = os.getpid(), {}
        client = self._clients.get(url)
        if client is None:
            # Two threads may both make a client. setdefault keeps one, and the other is never used.
            client = self._clients.setdefault(url, httpx.Client(**options(url)))
        return client
