"""The return values of ``stream=True``: the pieces of a text as the engine generates them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType

from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError
from sage_inference.client.results import InferenceResult
from sage_inference.client.stream_text import StreamText
from sage_inference.client.transport import AsyncByteStream, ByteStream


class TextStream(Iterator[str]):
    """Pieces of text. Closing or dropping the stream cancels the request in the engine.

    ``result`` has the text so far. After the last piece it has the finish reason, and the usage if
    ``stream_options`` asked for it.
    """

    def __init__(self, body: ByteStream, text: StreamText) -> None:
        self._text = text
        self._pieces = _pieces(body, text)
        next(self._pieces)

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pieces.close()

    @property
    def result(self) -> InferenceResult:
        return self._text.result


def _pieces(body: ByteStream, text: StreamText) -> Generator[str, None, None]:
    try:
        yield ""  # starts the generator: only a started one runs its ``finally`` when it is dropped
        try:
            for data in body:
                if not text.ended:  # afterwards read on: the end of the transfer frees the connection
                    yield from text.feed(data)
        except (InferenceConnectionError, InferenceTimeoutError):
            if not text.ended:
                raise
        yield from text.finish()
    finally:
        body.close()


class AsyncTextStream(AsyncIterator[str]):
    """Like ``TextStream``, with ``async for``, ``async with`` and ``aclose``."""

    def __init__(self, pieces: AsyncGenerator[str, None], text: StreamText) -> None:
        self._text = text
        self._pieces = pieces

    @classmethod
    async def begun(cls, body: AsyncByteStream, text: StreamText) -> AsyncTextStream:
        pieces = _async_pieces(body, text)
        await anext(pieces)
        return cls(pieces, text)

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._pieces.aclose()

    @property
    def result(self) -> InferenceResult:
        return self._text.result


async def _async_pieces(body: AsyncByteStream, text: StreamText) -> AsyncGenerator[str, None]:
    try:
        yield ""
        try:
            async with contextlib.aclosing(_data(body)) as incoming:
                async for data in incoming:
                    for piece in text.feed(data):
                        yield piece
        except (InferenceConnectionError, InferenceTimeoutError):
            if not text.ended:
                raise
        for piece in text.finish():
            yield piece
    finally:
        await body.aclose()


async def _data(body: AsyncByteStream) -> AsyncGenerator[bytes, None]:
    async for data in body:
        yield data
