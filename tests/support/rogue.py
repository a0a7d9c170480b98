"""An engine that misbehaves on purpose: raw sockets, one scripted answer a request."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from sage_inference.control_plane.instances.replica_vectors import PROBE_TEXT

Answer = Callable[["Wire"], None]


class Wire:
    """One connection as an answer sees it."""

    def __init__(self, sock: socket.socket, engine: RogueEngine) -> None:
        self.sock = sock
        self.engine = engine
        self.head = b""
        self.body = b""

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def wait_for_peer_to_leave(self) -> None:
        """Blocks until the gateway closes its side; then tells ``engine.left``."""
        try:
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        self.engine.left.put(self)


def ok(body: bytes | str = b'{"ok":true}', *headers: str, status: str = "200 OK") -> Answer:
    """A well-behaved answer with a Content-Length, in one write."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(data)}", *headers]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()

    def answer(wire: Wire) -> None:
        wire.send(head + data)

    return answer


def raw(data: bytes | str, *, then: str = "keep") -> Answer:
    """Exactly these bytes, and then ``keep``, ``close`` or ``reset`` the connection, or stay ``silent``."""

    def answer(wire: Wire) -> None:
        wire.send(data)
        if then == "close":
            wire.close()
        elif then == "reset":
            wire.reset()
        elif then == "silent":
            wire.wait_for_peer_to_leave()

    return answer


def sse(*events: str) -> bytes:
    """A head and chunked events, without the last chunk."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(chunk(f"data: {event}\n\n".encode()) for event in events)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class RogueEngine:
    """Answers GETs as an OpenAI-like engine does, and each POST by the next answer; the last one repeats.

    ``scripted``: begins of paths whose GETs are answered as POSTs are.
    """

    def __init__(
        self,
        *answers: Answer,
        model: str = "m",
        early: int = 0,
        probed: bool = False,
        routes: Sequence[str] = (),
        scripted: tuple[str, ...] = (),
    ) -> None:
        self.answers = list(answers)
        self.model = model
        self._routes = routes  # those that it names, as vLLM does; without any it has no /openapi.json
        self._scripted = scripted
        self._probed = probed  # whether the gateway's probe of vectors is answered as any request
        self._early = early  # so many POSTs are answered before their bodies are read
        self.requests: list[bytes] = []  # heads and bodies of POSTs, as received
        self.arrived: queue.Queue[Wire] = queue.Queue()  # POSTs, as they come
        self.left: queue.Queue[Wire] = queue.Queue()  # connections whose caller left
        self.go = threading.Event()  # for answers that wait until the test lets them go on
        self.connections = 0
        self.silent = False  # it answers no GET
        self.slow_s = 0.0  # so long it takes to answer a GET
        self.loading = False  # GET /health answers 503
        self._socks: list[socket.socket] = []
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        for sock in self._socks:
            sock.close()

    def refuse(self) -> None:
        """Close the listening socket, and every connection."""
        try:
            self._server.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._server.close()
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def listen_again(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as servers do
            self._socks.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            buffer = b""
            posted = False
            while True:
                head, body, buffer = _read_request(sock, buffer, early=self._early > 0)
                path = head.split()[1].decode("latin-1")
                if head.startswith(b"GET") and not path.startswith(self._scripted or ("-",)):
                    if not self.silent:
                        time.sleep(self.slow_s)
                        sock.sendall(self._get(path))
                    continue
                if not self._probed and PROBE_TEXT[:30].encode() in body:
                    sock.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                with self._lock:
                    self._early -= 1
                    self.connections += not posted
                    posted = True
                    self.requests.append(head + body)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                wire = Wire(sock, self)
                wire.head, wire.body = head, body
                self.arrived.put(wire)
                answer(wire)
        except (OSError, EOFError):
            pass

    def _get(self, path: str) -> bytes:
        documents: dict[str, Any] = {
            "/health": {},
            "/v1/models": {
                "object": "list",
                "data": [
                    {
                        "id": self.model,
                        "object": "model",
                        "created": 1,
                        "owned_by": "vllm" if self._routes else "rogue",
                    }
                ],
            },
        }
        if self._routes:
            documents["/openapi.json"] = {"paths": {route: {"post": {}} for route in self._routes}}
        status = "200 OK" if path in documents else "404 Not Found"
        if path == "/health" and self.loading:
            status = "503 Service Unavailable"
        body = json.dumps(documents.get(path, {"detail": "Not Found"})).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body


def _read_request(sock: socket.socket, buffer: bytes, early: bool) -> tuple[bytes, bytes, bytes]:
    while b"\r\n\r\n" not in buffer:
        data = sock.recv(65536)
        if not data:
            raise EOFError
        buffer += data
    head, _, rest = buffer.partition(b"\r\n\r\n")
    if early and not head.startswith(b"GET"):
        return head + b"\r\n\r\n", b"", rest
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(rest) < length:
        data = sock.recv(1 << 20)
        if not data:
            raise EOFError
        rest += data
    return head + b"\r\n\r\n", rest[:length], rest[length:]
