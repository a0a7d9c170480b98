"""A port that nobody accepts on: connecting to it takes for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_MORE_THAN_THE_BACKLOG = 4


@contextmanager
def deaf(port: int) -> Iterator[None]:
    """Take ``port`` of this machine, and fill its backlog."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=0))
        for _ in range(_MORE_THAN_THE_BACKLOG):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield
