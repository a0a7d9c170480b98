"""Answers the clients of a keeper: one line of JSON for each line of JSON."""

from __future__ import annotations

import json
import select
import socket
import time

from sage_inference.keeper.address import peer

TYPE_CHECKING = False  # ``typing`` costs the keeper half a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LONGEST = 4096  # bytes of a question
_RETRY_S = 0.05
_MOST = 64  # connections; the oldest without a watch makes room


class ControlClient:
    """A connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.watches = False
        self.question = b""
        self.answer = b""


class ControlSocket:
    """The listening socket and its connections. ``answer`` gets a question and returns the document to send."""

    def __init__(
        self, sock: socket.socket, poll: select.poll, answer: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = poll
        self._answer = answer
        self._clients: dict[int, ControlClient] = {}
        poll.register(sock, select.POLLIN)

    def handle(self, descriptor: int) -> bool:
        """Serve a descriptor that is ready. False if it is none of the sockets."""
        if descriptor == self._sock.fileno():
            self._accept()
            return True
        client = self._clients.get(descriptor)
        if client is None:
            return False
        try:
            self._serve(client)
        except OSError:
            self._drop(client)
        return True

    def replace(self, sock: socket.socket) -> None:
        """Listen on another socket. Connections stay."""
        sock.setblocking(False)
        self._poll.unregister(self._sock)
        self._sock.close()
        self._sock = sock
        self._poll.register(sock, select.POLLIN)

    def announce(self, document: dict[str, Any]) -> None:
        """Send a line to all that watch."""
        for client in [client for client in self._clients.values() if client.watches]:
            try:
                self._send(client, document)
            except OSError:
                self._drop(client)

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._drop(client)
        self._poll.unregister(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:  # the client has left
            return
        except OSError:
            # Without free descriptors the connection stays in the backlog, and poll would report it again at once.
            time.sleep(_RETRY_S)
            return
        if peer(sock) is None:
            sock.close()
            return
        sock.setblocking(False)
        if len(self._clients) >= _MOST:
            oldest = next((each for each in self._clients.values() if not each.watches), None)
            self._drop(oldest or next(iter(self._clients.values())))
        self._clients[sock.fileno()] = ControlClient(sock)
        self._poll.register(sock, select.POLLIN)

    def _serve(self, client: ControlClient) -> None:
        if client.answer:
            self._flush(client)
            return
        try:
            data = client.sock.recv(_LONGEST)
        except BlockingIOError:
            return
        client.question += data
        line, end, client.question = client.question.partition(b"\n")
        if not end:
            client.question = line
            if not data or len(line) > _LONGEST:
                self._drop(client)
            return
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            question = None
        if not isinstance(question, dict):
            self._drop(client)
            return
        client.watches = client.watches or question.get("ask") == "watch"
        self._send(client, self._answer(question))

    def _send(self, client: ControlClient, document: dict[str, Any]) -> None:
        client.answer += json.dumps(document).encode() + b"\n"
        self._flush(client)

    def _flush(self, client: ControlClient) -> None:
        try:
            sent = client.sock.send(client.answer)
        except BlockingIOError:
            sent = 0
        client.answer = client.answer[sent:]
        self._poll.modify(client.sock, select.POLLOUT if client.answer else select.POLLIN)

    def _drop(self, client: ControlClient) -> None:
        self._clients.pop(client.sock.fileno(), None)
        self._poll.unregister(client.sock)
        client.sock.close()
