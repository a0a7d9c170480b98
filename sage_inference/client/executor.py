"""``EmbeddingExecutor``: embeddings from an engine that the caller names, with counts of how it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError, SageInferenceError
from sage_inference.client.unified_async import AsyncUnifiedInferenceClient

_ALL = 1_000_000  # texts in one request: as many as there are


class EmbeddingExecutorError(SageInferenceError):
    """The root of what an executor raises; with the fields of the error behind it."""


class EmbeddingInstanceUnavailableError(EmbeddingExecutorError):
    """The engine was not reached, or closed the connection."""


class EmbeddingTimeoutError(EmbeddingExecutorError):
    """It did not answer in time."""


class EmbeddingRequestError(EmbeddingExecutorError):
    """It refused the request, or answered what cannot be read."""


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """Vectors in the order of the texts; ``usage`` sums up those of all requests it took."""

    embeddings: list[list[float]]
    model: str
    request_id: str
    latency_ms: float
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddingMetrics:
    """Counts since the executor was made. A call is one of ``execute_embedding`` or ``…_batch``."""

    total_requests: int = 0
    failed_requests: int = 0
    total_texts: int = 0
    total_tokens: int = 0
    avg_latency_ms: float = 0.0


class EmbeddingExecutor:
    """Use it in one event loop: ``async with EmbeddingExecutor() as executor``."""

    def __init__(self, timeout: float = 60.0, max_retries: int = 2, api_key: str | None = None) -> None:
        self._timeout = timeout
        self._max_retries = max_retries
        self._api_key = api_key
        self._clients: dict[tuple[str, int, int], AsyncUnifiedInferenceClient] = {}
        self._calls = self._failed = self._texts = self._tokens = 0
        self._took_ms = 0.0

    async def initialize(self) -> None:
        """Nothing is needed: connections are made when they are."""

    async def cleanup(self) -> None:
        """Let go of all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cleanup()

    async def execute_embedding(
        self, texts: Sequence[str], model: str | None = None, host: str = "127.0.0.1", port: int = 8090
    ) -> EmbeddingResult:
        """The texts' vectors, in one request. Raises ``EmbeddingExecutorError``."""
        return await self._execute(texts, model, host, port, _ALL)

    async def execute_embedding_batch(
        self,
        texts: Sequence[str],
        model: str | None = None,
        host: str = "127.0.0.1",
        port: int = 8090,
        batch_size: int = 32,
    ) -> EmbeddingResult:
        """The same in requests of ``batch_size`` texts, several at once."""
        return await self._execute(texts, model, host, port, batch_size)

    async def health_check(self, host: str = "127.0.0.1", port: int = 8090) -> bool:
        """Whether an engine for embeddings answers there."""
        return await self._client(host, port, _ALL).is_embedding_available()

    def get_metrics(self) -> EmbeddingMetrics:
        done = self._calls - self._failed
        average = self._took_ms / done if done else 0.0
        return EmbeddingMetrics(self._calls, self._failed, self._texts, self._tokens, average)

    async def _execute(
        self, texts: Sequence[str], model: str | None, host: str, port: int, size: int
    ) -> EmbeddingResult:
        self._calls += 1
        try:
            client = self._client(host, port, size)
            found = await client.embed(list(texts), model=model, return_result=True)
        except SageInferenceError as error:
            self._failed += 1
            raise _as_ours(error) from error
        usage = dict(found.usage)
        self._texts += len(texts)
        self._tokens += usage.get("total_tokens", 0)
        self._took_ms += found.latency_ms
        return EmbeddingResult(found.content, found.model, found.request_id, found.latency_ms, usage)

    def _client(self, host: str, port: int, size: int) -> AsyncUnifiedInferenceClient:
        key = host, port, size
        if key not in self._clients:
            self._clients[key] = AsyncUnifiedInferenceClient(
                embedding_base_url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
                embedding_api_key=self._api_key,
                embedding_batch_size=size,
                timeout=self._timeout,
                max_retries=self._max_retries,
            )
        return self._clients[key]


def _as_ours(error: SageInferenceError) -> EmbeddingExecutorError:
    kind: type[EmbeddingExecutorError] = EmbeddingRequestError
    if isinstance(error, InferenceConnectionError):
        kind = EmbeddingInstanceUnavailableError
    elif isinstance(error, InferenceTimeoutError):
        kind = EmbeddingTimeoutError
    return kind(
        error.message,
        status=error.status,
        code=error.code,
        param=error.param,
        request_id=error.request_id,
        instance=error.instance,
        retry_after=error.retry_after,
    )
