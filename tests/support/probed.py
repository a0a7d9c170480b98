"""An engine whose answers to ``GET /health`` follow a script, on raw sockets."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

Health = Callable[[socket.socket], bool]  # sends an answer; whether the connection may be used again

_MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "probed"}]}


def answer(status: str, document: Any = None, *headers: str, version: str = "1.1") -> bytes:
    body = json.dumps(document).encode()
    lines = [f"HTTP/{version} {status}", f"content-length: {len(body)}", "content-type: application/json"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + body


def well(sock: socket.socket) -> bool:
    sock.sendall(answer("200 OK"))
    return True


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


class ProbedEngine:
    """Each probe gets the next answer of ``script``; every other question is answered as OpenAI's API does."""

    def __init__(self, *script: Health, models: Any = _MODELS) -> None:
        self.script: Iterator[Health] = itertools.cycle(script or (well,))
        self.models = models
        self.probes = 0
        self.connections = 0
        self.asked: list[str] = []  # every request's path
        self.posted = threading.Event()
        self._socks: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        for sock in (self._server, *self._socks):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = sock.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                path = head.split()[1].decode()
                self.asked.append(path)
                if path == "/health":
                    self.probes += 1
                    if not next(self.script)(sock):
                        return
                else:
                    sock.sendall(self.other(path))
        except OSError:
            pass
        finally:
            sock.close()

    def other(self, path: str) -> bytes:
        if path == "/v1/models":
            return answer("200 OK", self.models)
        return answer("404 Not Found", {"detail": "Not Found"})
