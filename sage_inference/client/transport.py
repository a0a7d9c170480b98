"""What a client needs of whatever carries its requests: one answer, or one answer piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from sage_inference.client.answers import Answer
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.requests import Request


class ByteStream(Protocol):
    """An answer whose body comes in pieces; ``close`` before its end tells the server to stop.

    ``head`` has an empty body, or the whole one where the status is an error.
    """

    head: Answer

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """Raises errors of the ``SageInferenceError`` tree only; ``timeout`` is in seconds."""

    def send(self, request: Request, timeout: float) -> Answer: ...

    def open(self, request: Request, timeout: float) -> ByteStream: ...

    def serves(self, endpoint: Endpoint, kind: str) -> bool:
        """Whether ``llm`` or ``embedding`` work is served there now."""
        ...

    def details(self) -> dict[str, Any]:
        """What a status shows beside the endpoints."""
        ...

    def close(self) -> None: ...


class AsyncByteStream(Protocol):
    """As ``ByteStream``."""

    head: Answer

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class AsyncTransport(Protocol):
    """As ``Transport``."""

    async def send(self, request: Request, timeout: float) -> Answer: ...

    async def open(self, request: Request, timeout: float) -> AsyncByteStream: ...

    async def serves(self, endpoint: Endpoint, kind: str) -> bool: ...

    async def details(self) -> dict[str, Any]: ...

    async def aclose(self) -> None: ...
