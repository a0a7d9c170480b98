"""Stands between a gateway and its engines: passes every byte on as it comes, and keeps each call and its answer."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httptools

from tests.bench.fidelity.wire import Call

T = TypeVar("T")
_PIECE = 1 << 18


class Tap:
    """Runs on a thread of its own, whose event loop is lent to whoever has to know what passes."""

    def __init__(self) -> None:
        self.calls: list[Call] = []  # those that were answered in full, in that order
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._talks: set[asyncio.Task[None]] = set()
        self._awaiting: list[asyncio.Future[None]] = []

    def before(self, engine: str) -> str:
        """The address at which ``engine`` is now to be asked."""
        return self.run(self._listen(engine))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` comes to, on the event loop of the tap."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def more_calls(self, count: int) -> None:
        """Wait until so many more requests have come through."""
        for _ in range(count):
            begun = asyncio.get_running_loop().create_future()
            self._awaiting.append(begun)
            await begun

    def begun(self) -> None:
        awaiting, self._awaiting = self._awaiting, []
        for one in awaiting:
            if not one.done():
                one.set_result(None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self, engine: str) -> str:
        server = await asyncio.start_server(partial(self._accept, engine), "127.0.0.1", 0, limit=_PIECE)
        self._servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _accept(self, engine: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await self._talk(engine, reader, writer)
        except OSError:
            pass  # whoever broke off, the other side is told by the close below
        finally:
            self._talks.discard(task)
            writer.close()

    async def _talk(self, engine: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(engine)
        back, forth = await asyncio.open_connection(address.hostname, address.port, limit=_PIECE)
        said = _Conversation(self, engine)
        ways = [
            asyncio.ensure_future(_copy(reader, forth, said.asks)),
            asyncio.ensure_future(_copy(back, writer, said.answers)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            forth.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        talks = list(self._talks)
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter, parser: Any) -> None:
    while piece := await source.read(_PIECE):
        parser.feed_data(piece)
        to.write(piece)
        await to.drain()


class _Conversation:
    """One connection's requests and answers, which come in the same order."""

    def __init__(self, tap: Tap, engine: str) -> None:
        self._tap = tap
        self._engine = engine
        self._asked: deque[tuple[str, bytes]] = deque()
        self.asks = httptools.HttpRequestParser(_Asks(self))
        self.answers = httptools.HttpResponseParser(_Answers(self))

    def asked(self, path: str, body: bytes) -> None:
        self._asked.append((path, body))
        self._tap.begun()

    def answered(self, body: bytes) -> None:
        path, asked = self._asked.popleft()
        self._tap.calls.append(Call(self._engine, path, asked, self.answers.get_status_code(), body))


class _Asks:
    def __init__(self, conversation: _Conversation) -> None:
        self._conversation = conversation
        self._path, self._body = b"", bytearray()

    def on_url(self, piece: bytes) -> None:
        self._path += piece

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        path, body = self._path.decode("latin-1"), bytes(self._body)
        self._path, self._body = b"", bytearray()
        self._conversation.asked(path, body)


class _Answers:
    def __init__(self, conversation: _Conversation) -> None:
        self._conversation = conversation
        self._body = bytearray()

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        body = bytes(self._body)
        self._body = bytearray()
        self._conversation.answered(body)
