"""One caller's connection: requests in turn over keep-alive, and answers to their declared end or as far as they came."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE_S = 90.0  # beyond it an answer counts as lost: an engine that hangs is noticed within 12 s
_PIECE = 4096


@dataclass(slots=True)
class Answer:
    """``complete``: the body came to the end that its framing declared. ``error``: why it did not."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    error: str = ""

    @property
    def instance(self) -> str:
        return self.headers.get("x-sage-instance", "")


class Connection:
    """A raw HTTP/1.1 client. ``slow``: it reads some KB at a time, with a pause after each, from a small buffer."""

    def __init__(self, port: int, *, slow: bool = False) -> None:
        self._port = port
        self._slow = slow
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    async def ask(self, request: bytes) -> Answer:
        """The answer; one that broke off says so. Never raises for what the gateway does."""
        answer = Answer()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.send(request)
                await self._hear(answer)
        except TimeoutError:
            answer.error = f"no end within {PATIENCE_S:.0f} s"
        except (OSError, EOFError, ValueError, LookupError) as error:
            answer.error = repr(error)
        if not answer.complete or answer.headers.get("connection") == "close":
            self.abort()
        return answer

    async def send(self, request: bytes) -> None:
        if self._writer is None:
            await self._connect()
        assert self._writer is not None
        self._writer.write(request)
        await self._writer.drain()

    def abort(self) -> None:
        """Leave, whatever is under way."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        if self._slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        except BaseException:
            sock.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=1 << 20)

    async def _hear(self, answer: Answer) -> None:
        assert self._reader is not None
        reader = self._reader
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer.headers.update(
            (name, value) for name, _, value in (line.lower().partition(": ") for line in head[1:]) if name
        )
        answer.status = int(head[0].split()[1])
        if "content-length" in answer.headers:
            await self._body(answer, reader, int(answer.headers["content-length"]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await self._body(answer, reader, size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        answer.complete = True

    async def _body(self, answer: Answer, reader: asyncio.StreamReader, size: int) -> None:
        while size:
            piece = await reader.read(min(size, _PIECE) if self._slow else size)
            if not piece:
                raise asyncio.IncompleteReadError(bytes(answer.body), None)
            answer.body += piece
            size -= len(piece)
            if self._slow:
                await asyncio.sleep(0.002)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request. ``headers`` are further lines of its head."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += "".join(f"{line}\r\n" for line in headers)
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
