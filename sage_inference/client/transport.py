"""The interface of a client's transports: an answer as a whole or in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from sage_inference.client.answers import Answer
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.requests import Request


class ByteStream(Protocol):
    """An answer with a body in pieces. ``close`` before its end makes the server stop.

    ``head`` has an empty body, or the whole one if the status is an error.
    """

    head: Answer

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """Sends requests. ``timeout`` is in seconds. Raises ``SageInferenceError`` only."""

    def send(self, request: Request, timeout: float) -> Answer: ...

    def open(self, request: Request, timeout: float) -> ByteStream: ...

    def serves(self, endpoint: Endpoint, kind: str) -> bool:
        """Whether the endpoint serves ``llm`` or ``embedding`` work now."""
        ...

    def details(self) -> dict[str, Any]:
        """Fields for the client's status, beside the endpoints."""
        ...

    def close(self) -> None: ...


class AsyncByteStream(Protocol):
    """Like ``ByteStream``."""

    head: Answer

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class AsyncTransport(Protocol):
    """Like ``Transport``."""

    async def send(self, request: Request, timeout: float) -> Answer: ...

    async def open(self, request: Request, timeout: float) -> AsyncByteStream: ...

    async def serves(self, endpoint: Endpoint, kind: str) -> bool: ...

    async def details(self) -> dict[str, Any]: ...

    async def aclose(self) -> None: ...
