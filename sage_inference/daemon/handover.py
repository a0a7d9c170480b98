"""A gateway passes its lock, its name and its listening socket to its successor.

The successor asks when it is ready to serve. Both accept connections until the predecessor knows that the
successor does, so that none is refused. A connection that ends before "serving" changes nothing.

    successor                                predecessor
    {"take": "socket"} ────────────────────▶
                       ◀──────────────────── {"given": true}, with descriptors
    {"serving": true}  ────────────────────▶ stops touching the files
                       ◀──────────────────── {"left": true}; drains and ends

The command that replaces a gateway asks on a connection of its own for the report of ``end_report``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sage_inference.daemon import presence
from sage_inference.daemon.bind import bind, resolve
from sage_inference.daemon.end_report import QUESTION
from sage_inference.daemon.errors import AlreadyRunning, BindError, DaemonError, PortTaken
from sage_inference.daemon.predecessor import Predecessor

log = logging.getLogger("sage_inference.daemon")

_ASK_S = 0.5  # for a request: a process that only asks for the holder's pid sends none
_ANSWER_S = 5.0
_SERVE_S = 20.0  # until the successor accepts connections
_RETRY_S = 0.2
_MOST = 3  # descriptors


class NoHandoverError(DaemonError):
    """The running gateway cannot pass its place on, and must be stopped first."""

    code = "no_handover"


class Listening(Protocol):
    """The socket of a serving gateway. Any thread may call the methods."""

    sock: socket.socket

    def release(self) -> None:
        """Close the listening socket only."""

    def resume(self) -> None:
        """Listen again on the address of the socket that ``release`` closed. Raises ``BindError``."""


def give(
    connection: socket.socket,
    descriptors: list[int],
    listening: Listening,
    leave: Callable[[], None],
    listen_to_end: Callable[[socket.socket], None],
) -> bool:
    """Answer one connection to the gateway's name. True if the place was passed on; then ``leave`` was called.

    ``listen_to_end`` gets a connection that waits for the report of the gateway's end.
    """
    connection.settimeout(_ASK_S)
    if not presence.may_succeed(connection):
        return False
    message = _receive(connection)
    if message == QUESTION:
        listen_to_end(connection.dup())
        return False
    wanted = message.get("take")
    if wanted not in ("socket", "port", "lock"):
        return False
    if wanted == "port":
        listening.release()
    left = False
    try:
        passed = [*descriptors, *([listening.sock.fileno()] if wanted == "socket" else [])]
        socket.send_fds(connection, [_message({"given": True, "named": len(descriptors) > 1})], passed)
        connection.settimeout(_SERVE_S)
        if _receive(connection).get("serving"):
            leave()
            left = True
            # First, because the files will name the successor, and this process must not answer requests to it.
            if wanted != "port":
                listening.release()
            connection.sendall(_message({"left": True}))
    except OSError as error:
        log.warning("a successor did not take over: %s", error)
    finally:
        if wanted == "port" and not left:
            _resume(listening)
    return left


def _resume(listening: Listening) -> None:
    """Listen again, and wait for the port if another process has taken it meanwhile."""
    logged = False
    while True:
        try:
            return listening.resume()
        except BindError as error:
            if not logged:
                log.error("not listening again yet: %s", error)  # noqa: TRY400 - the traceback adds nothing
            logged = True
            time.sleep(_RETRY_S)


class Takeover:
    """The successor's side, in the order of its methods."""

    def __init__(self, predecessor: Predecessor, folder: Path, commit: Callable[[], None]) -> None:
        """``commit`` is called just before anything is taken over. It raises to prevent that."""
        self._commit = commit
        self._predecessor = predecessor
        self._folder = folder
        self._wanted = "lock"
        self._own: socket.socket | None = None
        self._address = ("", 0)
        self._connection: socket.socket | None = None
        self._descriptors: list[int] = []

    def bind(self, host: str, port: int) -> None:
        """Bind the address if that is possible while the predecessor listens. Raises ``BindError``."""
        self._address = (host, port)
        there = (self._predecessor.host, self._predecessor.port)
        if resolve(host, port)[1][:2] == there:
            self._wanted = "socket"
            return
        try:
            self._own = bind(host, port)
        except PortTaken:
            if port != self._predecessor.port:
                raise
            # The predecessor has the same port of another address, which may exclude this one. The kernel has
            # already accepted the address as one of this machine.
            self._wanted = "port"

    def listen(self) -> socket.socket:
        """The socket to serve on. Raises ``NoHandoverError``, ``AlreadyRunning``, ``BindError``."""
        self._commit()
        connection = self._connection = self._connect()
        try:
            connection.sendall(_message({"take": self._wanted}))
            raw, descriptors, _, _ = socket.recv_fds(connection, 4096, _MOST)
            answer = _read(raw)
        except OSError:
            raise _none("does not answer") from None
        if not answer.get("given"):
            raise _none("does not pass on its place")
        if self._wanted == "socket":
            self._own = socket.socket(fileno=descriptors.pop())
        self._descriptors = descriptors
        if self._wanted == "port":
            self._own = bind(*self._address)
        assert self._own is not None
        return self._own

    def done(self) -> tuple[int, int | None]:
        """Relieve the predecessor, because this process serves. Returns the descriptors of its lock and its name."""
        assert self._connection is not None
        with contextlib.suppress(OSError), self._connection as connection:
            # A predecessor that was killed meanwhile needs no relief: this process has its lock and socket.
            connection.settimeout(_ANSWER_S)
            connection.sendall(_message({"serving": True}))
            _receive(connection)
        lock, *name = self._descriptors
        return lock, name[0] if name else None

    def _connect(self) -> socket.socket:
        connection = presence.connect(self._folder)
        if connection is None:
            raise _none("has no name in the kernel")
        connection.settimeout(_ANSWER_S)
        found = presence.peer(connection, self._folder)
        if found is None:
            connection.close()
            raise _none("lost its name in the kernel to another user")
        if found != self._predecessor.process:
            connection.close()
            raise AlreadyRunning(found.pid)
        return connection


def _none(why: str) -> NoHandoverError:
    return NoHandoverError(f"the running gateway {why}")


def _message(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _receive(connection: socket.socket) -> dict[str, Any]:
    """One message. Empty if the other end sent none, or an invalid one."""
    try:
        return _read(connection.recv(4096))
    except OSError:
        return {}


def _read(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
