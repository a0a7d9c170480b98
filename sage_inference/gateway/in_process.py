"""A client within the gateway's own process. It speaks the gateway's protocol over memory, without a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from sage_inference.engines.connection import EngineConnection
from sage_inference.engines.parser_events import ParserEvents
from sage_inference.engines.receiver import Broken
from sage_inference.wire.isolation import report
from sage_inference.wire.loop_batch import LoopBatch
from sage_inference.wire.memory import HIGH_WATER, join
from sage_inference.wire.message import Data, Headers, ResponseHead


class CutShortError(Exception):
    """The answer was cut off, or there was none. The message has the reason."""


class InProcessResponse:
    """One answer: await its head, then its body. While the body is not read, the gateway is paused: memory is bounded."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.length: int | None = None
        self._pieces: deque[Data] = deque()
        self._size = 0
        self._ended = False
        self._failure: CutShortError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.connection: EngineConnection | None = None

    async def head(self) -> None:
        """Returns once ``status`` and ``headers`` are there. Raises ``CutShortError``."""
        while not self.status:
            await self._more()

    async def piece(self) -> bytes:
        """The bytes of the body that came since the last call, b"" at its end. Raises ``CutShortError``."""
        while not self._pieces:
            if self._ended:
                return b""
            await self._more()
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self._size > HIGH_WATER and self.connection is not None and not self._ended:
            self.connection.resume()
        self._size = 0
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.piece():
            yield data

    def abandon(self) -> None:
        """Drop the rest of the answer. The gateway sees its caller leave. Idempotent."""
        connection, self.connection = self.connection, None
        if connection is not None and not self._ended and self._failure is None:
            self._failure = CutShortError("the caller left")
            connection.discard()
            self._wake()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Called by the connection (see engines.connection.Receiver)

    def engine_answers(self, answer: ResponseHead, length: int | None) -> None:
        self.status, self.headers, self.length = answer.status, answer.headers, length
        self._wake()

    def engine_sends(self, piece: Data, end: bool) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > HIGH_WATER and self.connection is not None and not end:
                self.connection.pause()
        if end:
            self._ended = True
        self._wake()

    def engine_failed(self, how: Broken, detail: str) -> None:
        self._failure = CutShortError(f"the gateway {detail}")
        self._wake()

    def engine_is_silent(self) -> None:
        """Nothing to do: the other end is the gateway, and no engine."""

    def broke(self, error: Exception) -> None:
        report(error, "an answer to a caller in this process")
        self._failure = CutShortError("the gateway could not relay the answer")
        self._wake()


class InProcessClient:
    """Connections to one gateway from within its process. Use it on the gateway's event loop."""

    def __init__(self, accept: Callable[[], asyncio.Protocol], batch: LoopBatch) -> None:
        self._accept = accept
        self._batch = batch
        self._idle: list[EngineConnection] = []
        self._parser_events = ParserEvents()

    def send(self, method: bytes, target: bytes, headers: Headers, body: bytes) -> InProcessResponse:
        """Send a request. ``target`` is path and query; ``headers`` are without those of framing."""
        lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        response = InProcessResponse()
        response.connection = self._connection()
        response.connection.send(response, b"".join(lines), body)
        return response

    def _connection(self) -> EngineConnection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed:
                return connection
        connection = EngineConnection(self._idle.append, self._lost, self._parser_events, self._batch)
        join(self._accept(), connection, asyncio.get_running_loop())
        return connection

    def _lost(self, connection: EngineConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().discard()
