"""Connections to engines that listen on a Unix socket, and the reasons for which there is none."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TypeVar

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class SocketError(OSError):
    """No connection to a Unix socket was made. ``reason`` is in words, and ``gone``: no server listens there."""

    def __init__(self, number: int, reason: str, gone: bool) -> None:
        super().__init__(number, reason)
        self.reason = reason
        self.gone = gone


async def connect(loop: asyncio.AbstractEventLoop, protocol: Callable[[], _P], path: str) -> _P:
    """Raises ``SocketError``, or another ``OSError`` if this machine lacks something."""
    _, made = await loop.create_unix_connection(protocol, sock=connected(path))
    return made


def connected(path: str) -> socket.socket:
    """A connected socket, without waiting. Raises ``SocketError`` or another ``OSError``.

    With a full queue, the kernel refuses (EAGAIN) and reports no later moment at which it would not. Event loops that
    connect by themselves therefore spin, or take the connection for made.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.connect(path)
    except OSError as error:
        made.close()
        raise _named(error, path) from None
    return made


def _named(error: OSError, path: str) -> OSError:
    """The error with its reason in words, if it is about the socket at ``path``."""
    reasons = {
        errno.ENOENT: (f"there is no socket {path}", True),
        errno.ENOTDIR: (f"there is no socket {path}", True),
        errno.ECONNREFUSED: (f"no server listens on the socket {path}", True),
        errno.EACCES: (
            f"this user may not use the socket {path}: the file and its directories must permit that",
            False,
        ),
        errno.EPROTOTYPE: (f"the socket {path} is none of a server for streams", False),
    }
    found = reasons.get(error.errno or 0)
    return error if found is None else SocketError(error.errno or 0, *found)


def explain(error: BaseException) -> str | None:
    """The reason in words, if the error is about a Unix socket."""
    return error.reason if isinstance(error, SocketError) else None
