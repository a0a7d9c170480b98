"""Connections to engines that listen on a Unix socket, and the reasons for which there is none."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TypeVar

_P = TypeVar("_P", bound=asyncio.BaseProtocol)
# Pauses between attempts while the queue of the socket is full. They take a second in all.
_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.3, 0.4)
# By number: the reason, and whether no server listens there.
_REASONS = {
    errno.ENOENT: ("there is no socket {}", True),
    errno.ENOTDIR: ("there is no socket {}", True),
    errno.ECONNREFUSED: ("no server listens on the socket {}", True),
    errno.EACCES: (
        "this user may not use the socket {}: the file and its directories must permit that",
        False,
    ),
    errno.EPERM: (
        "this user may not use the socket {}: the file and its directories must permit that",
        False,
    ),
    errno.EPROTOTYPE: ("the socket {} is none of a server for streams", False),
    errno.EAGAIN: ("the queue of the socket {} is full: the engine accepts connections too slowly", False),
}


class SocketError(OSError):
    """No connection to a Unix socket was made. ``reason`` is in words, and ``gone``: no server listens there."""

    def __init__(self, number: int, path: str) -> None:
        reason, self.gone = _REASONS[number]
        self.reason = reason.format(path)
        super().__init__(number, self.reason)


async def connect(loop: asyncio.AbstractEventLoop, protocol: Callable[[], _P], path: str) -> _P:
    """Connect, and wait for a place if the queue of the socket is full. Raises ``OSError``."""
    for pause in _PAUSES_S:
        try:
            made = connected(path)
            break
        except SocketError as error:
            if error.errno != errno.EAGAIN:
                raise
        await asyncio.sleep(pause)
    else:
        made = connected(path)
    _, connection = await loop.create_unix_connection(protocol, sock=made)
    return connection


def connected(path: str) -> socket.socket:
    """A connected socket, without waiting. Raises ``SocketError``, or another ``OSError`` for a fault of this machine.

    With a full queue, the kernel refuses (EAGAIN) and reports no later moment at which it would not. Event loops that
    connect by themselves therefore spin, or take the connection for made.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.connect(path)
    except OSError as error:
        made.close()
        number, other = error.errno or 0, error
    else:
        return made
    # Not in the block above: the error would carry the other one, which looks like a lack of this machine.
    raise SocketError(number, path) if number in _REASONS else other


def explain(error: BaseException) -> str | None:
    """The reason in words, if the error is about a Unix socket."""
    return error.reason if isinstance(error, SocketError) else None
