"""HTTP clients for questions to engines: one for plain connections, and one for each TLS context."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from ssl import SSLContext


def query_client(verify: SSLContext | bool = False) -> httpx.AsyncClient:
    """A client without time-outs, because ``Patience`` limits each question, and without proxies."""
    return httpx.AsyncClient(timeout=None, follow_redirects=False, trust_env=False, verify=verify)  # noqa: S113, S501


class QueryClients:
    """Clients by TLS context. No certificates are loaded for engines at ``http://``."""

    def __init__(self) -> None:
        self.plain = query_client()  # it follows no redirect, so it never speaks TLS
        self._timeout: httpx.Timeout | None = None
        self._secure: dict[SSLContext, httpx.AsyncClient] = {}

    def of(self, context: SSLContext | None) -> httpx.AsyncClient:
        """The client for an engine with this TLS context, which is None for plain connections."""
        if context is None:
            return self.plain
        client = self._secure.get(context)
        if client is None:
            client = self._secure[context] = query_client(context)
            if self._timeout is not None:
                client.timeout = self._timeout
        return client

    def use(self, timeout_s: float) -> None:
        self._timeout = httpx.Timeout(timeout_s)
        for client in (self.plain, *self._secure.values()):
            client.timeout = self._timeout

    async def aclose(self) -> None:
        for client in (self.plain, *self._secure.values()):
            await client.aclose()
