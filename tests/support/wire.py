"""A caller that speaks HTTP by hand: what it sends and what it gets are bytes."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> dict[str, dict[str, str]]:
        document: dict[str, dict[str, str]] = json.loads(self.body)
        return document

    @property
    def error(self) -> dict[str, str]:
        return self.json["error"]


def chat(model: str = "m", **fields: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def post(path: str, body: bytes, *headers: str, host: str = "127.0.0.1") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


CHAT = "/v1/chat/completions"


class Caller:
    """One connection to the gateway."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def chat(self, *headers: str, **fields: object) -> Self:
        return self.send(post(CHAT, chat(**fields), *headers))  # type: ignore[arg-type]

    def _more(self) -> bool:
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise EOFError(self._buffer)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise EOFError(self._buffer)
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def head(self) -> Reply:
        status = int(self.line().split()[1])
        headers: dict[str, str] = {}
        while line := self.line():
            name, _, value = line.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        return Reply(status, headers, b"")

    def chunk(self) -> bytes:
        data = self.take(int(self.line(), 16))
        assert self.line() == b""
        return data

    def reply(self) -> Reply:
        """A whole answer; ``complete`` is False where its framing was not fulfilled."""
        reply = self.head()
        try:
            if reply.status in (204, 304):
                pass
            elif reply.headers.get("transfer-encoding") == "chunked":
                while piece := self.chunk():
                    reply.chunks.append(piece)
                    reply.body += piece
            elif "content-length" in reply.headers:
                reply.body = self.take(int(reply.headers["content-length"]))
            else:
                reply.body = self.rest()
        except EOFError as error:
            reply.complete = False
            reply.body += error.args[0]
        return reply

    def rest(self) -> bytes:
        """All bytes until the gateway closes."""
        while self._more():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def closed(self) -> bool:
        """Whether the gateway closes now, without another byte."""
        return self.rest() == b""
