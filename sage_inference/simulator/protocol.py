"""uvicorn's connection, extended to report at once that the client has left."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_LINGER_NOTHING = struct.pack("ii", 1, 0)


class Connection(HttpToolsProtocol):
    """``on_gone`` is called when the connection ends. The work for its client sets and clears it.

    ``on_change`` is called whenever a connection has opened or ended.
    """

    def __init__(self, *args: Any, on_change: Callable[[], None], **named: Any) -> None:
        super().__init__(*args, **named)
        self.on_gone: Callable[[], object] | None = None
        self.gone = False
        self._on_change = on_change

    @property
    def local_port(self) -> int:
        return (self.server and self.server[1]) or 0

    def reset(self) -> None:
        """End with a TCP reset instead of a FIN. Unsent data is lost."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._on_change()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()
        self._on_change()
