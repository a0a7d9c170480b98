"""A gateway passes its place to its successor: its lock, its name and its listening socket.

The successor is ready to serve when it asks. Both accept connections until the predecessor knows that the
successor does, so none is refused. A connection that ends before "serving" changes nothing.

    successor                                predecessor
    {"take": "socket"} ────────────────────▶
                       ◀──────────────────── {"given": true}, with descriptors
    {"serving": true}  ────────────────────▶ stops touching the files
                       ◀──────────────────── {"left": true}; drains and ends
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
from sage_inference.daemon.errors import AlreadyRunning, BindError, DaemonError, PortTaken
from sage_inference.daemon.predecessor import Predecessor

log = logging.getLogger("sage_inference.daemon")

_ASK_S = 0.5  # for a request; a look at who is there sends none
_ANSWER_S = 5.0
_SERVE_S = 20.0  # for the successor to begin to accept
_RETRY_S = 0.2
_MOST = 3  # descriptors


class NoHandoverError(DaemonError):
    """The running gateway cannot pass its place on; it must be stopped first."""

    code = "no_handover"


class Listening(Protocol):
    """The socket of a gateway that serves. The methods may be called from any thread."""

    sock: socket.socket

    def release(self) -> None:
        """Close the listening socket, and nothing else."""

    def resume(self) -> None:
        """Listen again where ``release`` stopped to. Raises ``BindError``."""


def give(
    connection: socket.socket, descriptors: list[int], listening: Listening, leave: Callable[[], None]
) -> bool:
    """Answer one connection to the gateway's name. True if its place is passed on: ``leave`` was called."""
    connection.settimeout(_ASK_S)
    if not presence.may_succeed(connection):
        return False
    wanted = _receive(connection).get("take")
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
            # Before the files name the successor: a question to the successor must not be answered by this process.
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
    """Somebody else may have taken the port meanwhile; nothing is better than to wait for it."""
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
        """``commit`` raises if nothing may be taken over after all; it is called just before."""
        self._commit = commit
        self._predecessor = predecessor
        self._folder = folder
        self._wanted = "lock"
        self._own: socket.socket | None = None
        self._address = ("", 0)
        self._connection: socket.socket | None = None
        self._descriptors: list[int] = []

    def bind(self, host: str, port: int) -> None:
        """Bind what can be bound while the predecessor listens. Raises ``BindError``."""
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
            # The same port of other addresses: the predecessor may be in the way. The kernel has found
            # the address to be one of this machine already.
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
        """This process serves: relieve the predecessor. The descriptors of its lock and its name."""
        assert self._connection is not None
        with contextlib.suppress(OSError), self._connection as connection:
            # One that was killed in between needs no relief: its lock and socket live on in this process.
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
    """One message; empty if the other end sent nothing, or nothing of ours."""
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
