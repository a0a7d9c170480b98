"""HTTP clients for questions to engines: one for plain connections, and one for each TLS context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from ssl import SSLContext


def query_client(verify: SSLContext | bool = False, uds: str | None = None) -> httpx.AsyncClient:
    """A client without time-outs, because ``Patience`` limits each question, and without proxies."""
    transport = None
    if uds:
        from sage_inference.engines.socket_transport import SocketTransport  # few have such engines

        transport = SocketTransport(uds)
    return httpx.AsyncClient(
        timeout=None,  # noqa: S113
        follow_redirects=False,
        trust_env=False,
        verify=verify,  # noqa: S501
        transport=transport,
    )


_MOST_OTHERS = 256


class QueryClients:
    """Clients by TLS context and Unix socket. No certificates are loaded for engines at ``http://``."""

    def __init__(self) -> None:
        self.plain = query_client()  # it follows no redirect, so it never speaks TLS
        self._timeout: httpx.Timeout | None = None
        self._others: dict[SSLContext | str, httpx.AsyncClient] = {}

    def of(self, context: SSLContext | None, uds: str | None = None) -> httpx.AsyncClient:
        """The client for an engine with this TLS context, which is None for plain connections, or at this socket."""
        key = uds or context
        if not key:
            return self.plain
        client = self._others.pop(key, None)
        if client is None:
            client = query_client(context or False, uds or None)
            if self._timeout is not None:
                client.timeout = self._timeout
            if len(self._others) >= _MOST_OTHERS:  # each start of an engine may have a socket of its own
                del self._others[next(iter(self._others))]
        self._others[key] = client  # the one that was used last comes last
        return client

    def use(self, timeout_s: float) -> None:
        self._timeout = httpx.Timeout(timeout_s)
        for client in (self.plain, *self._others.values()):
            client.timeout = self._timeout

    async def aclose(self) -> None:
        for client in (self.plain, *self._others.values()):
            await client.aclose()
