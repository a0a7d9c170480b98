"""An httpx transport over a Unix socket.

httpx has one too (``uds``). If the queue of the socket is full, it tries to connect again and again without a pause, and
it does not name the socket in its errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from sage_inference.engines import unix_socket


class SocketTransport(httpx.AsyncHTTPTransport):
    """Sends each request over the socket at ``path``, to whichever address it is."""

    def __init__(self, path: str) -> None:
        super().__init__(verify=False, trust_env=False)  # noqa: S501 - there is no TLS
        self._pool = httpcore.AsyncConnectionPool(uds=path, network_backend=_Backend())


class _Backend(httpcore.AsyncNetworkBackend):
    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Stream(*await asyncio.open_unix_connection(sock=unix_socket.connected(path)))
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._writer.close()

    def get_extra_info(self, info: str) -> Any:
        """Nothing but whether the server closed a connection that is kept: then there is something to read."""
        return self._reader.at_eof() if info == "is_readable" else None
