"""Embeds texts on an engine from Python. Each call has a limited number of texts, each failure a type."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from sage_inference import trust
from sage_inference.engines.embeddings.usage import shares
from sage_inference.engines.embeddings.vectors import VectorError, as_base64, packed_bytes
from sage_inference.engines.embeddings.wire import (
    BadAnswerError,
    Embedded,
    call_body,
    read_answer,
)
from sage_inference.engines.query_clients import QueryClients
from sage_inference.requests.embedding import OPENAI_ROUTE
from sage_inference.types import ExecutionInstance


class EmbeddingExecutorError(Exception):
    """An embedding call failed. The message has the place and the reason. ``instance_id`` names the engine."""

    def __init__(self, instance_id: str, message: str) -> None:
        super().__init__(f"instance {instance_id} {message}")
        self.instance_id = instance_id


class EmbeddingInstanceUnavailableError(EmbeddingExecutorError):
    """The engine could not be reached, or answered 502, 503 or 429. Another instance may succeed."""


class EmbeddingTimeoutError(EmbeddingExecutorError):
    """The engine did not answer in time."""


class EmbeddingRequestError(EmbeddingExecutorError):
    """The engine refused the texts, or its answer has no vectors for them. ``status`` is that of the answer."""

    def __init__(self, instance_id: str, message: str, status: int) -> None:
        super().__init__(instance_id, message)
        self.status = status


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """One request's vectors.

    ``embeddings`` has a list of floats for each text, in the order of the texts. ``prompt_tokens`` is the request's
    share of its calls' tokens. ``latency_ms`` is the time of all calls of the batch that the request was in.
    """

    request_id: str
    model: str
    embeddings: list[list[float]]
    prompt_tokens: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class EmbeddingMetrics:
    """Counts since the executor was made. ``busy_ms`` is the sum of the times of all successful executions."""

    requests: int = 0
    texts: int = 0
    calls: int = 0
    failures: int = 0
    busy_ms: float = 0.0

    @property
    def texts_per_call(self) -> float:
        return self.texts / self.calls if self.calls else 0.0


class EmbeddingRequest(Protocol):
    """The fields of a request that the executor reads. ``RequestMetadata`` has them."""

    request_id: str
    embedding_texts: list[str] | None

    @property
    def effective_model_name(self) -> str: ...


_UNAVAILABLE = (429, 502, 503)
# An invalid host is no ``HTTPError`` of httpx. Certificates that cannot be read are an ``OSError`` of ours.
_NOT_REACHED = (httpx.HTTPError, httpx.InvalidURL, trust.TrustError)


class EmbeddingExecutor:
    """Embeds texts on engines. Use it by ``async with``, or end it with ``cleanup``."""

    def __init__(self, *, batch_size: int = 32, timeout_s: float = 60.0, api_key: str | None = None) -> None:
        """``batch_size`` is the most texts of one call, ``timeout_s`` the time in seconds that one call may take.

        Raises ``ValueError`` for a size below 1 or a time that is not above 0.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, not {timeout_s!r}")
        self.batch_size = batch_size
        self._timeout_s = timeout_s
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._askers: QueryClients | None = None
        self._metrics = EmbeddingMetrics()

    async def initialize(self) -> None:
        """Open the connection pool. The first call does it otherwise."""
        if self._askers is None:
            self._askers = QueryClients()
            self._askers.use(self._timeout_s)

    async def cleanup(self) -> None:
        """Close the connections. A later call opens them again."""
        askers, self._askers = self._askers, None
        if askers is not None:
            await askers.aclose()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cleanup()

    def get_metrics(self) -> EmbeddingMetrics:
        """The counts until now."""
        return self._metrics

    async def health_check(self, instance: ExecutionInstance) -> bool:
        """True if the instance answers ``GET /health`` with 200 within 5 s, or ``timeout_s`` if that is less."""
        try:
            answer = await self._ask("GET", instance, "/health", timeout=min(5.0, self._timeout_s))
        except _NOT_REACHED:
            return False
        return answer.status_code == 200

    async def execute_embedding(
        self,
        texts: Sequence[str],
        instance: ExecutionInstance,
        *,
        model: str | None = None,
        request_id: str = "",
    ) -> EmbeddingResult:
        """The vectors of ``texts``. ``model`` is the instance's if it is None. Raises ``EmbeddingExecutorError``."""
        request = _Request(request_id, list(texts))
        return (await self._execute([request], instance, model or instance.model_name))[0]

    async def execute_embedding_batch(
        self, requests: Sequence[EmbeddingRequest], instance: ExecutionInstance
    ) -> list[EmbeddingResult]:
        """The vectors of several requests for one model. The requests' texts share calls.

        Returns a result for each request, in the order of the requests. Raises ``EmbeddingExecutorError``, and
        ``ValueError`` if the requests name different models. One failed call fails all of them.
        """
        models = {request.effective_model_name for request in requests}
        if len(models) > 1:
            raise ValueError(f"one batch is for one model, not for {', '.join(sorted(models))}")
        asked = [_Request(request.request_id, request.embedding_texts or []) for request in requests]
        return await self._execute(asked, instance, models.pop() if models else "")

    async def _execute(
        self, requests: Sequence[_Request], instance: ExecutionInstance, model: str
    ) -> list[EmbeddingResult]:
        began = time.monotonic()
        texts = [json.dumps(text).encode() for request in requests for text in request.texts]
        vectors: list[list[float]] = []
        tokens: list[int] = []
        for start in range(0, len(texts), self.batch_size):
            part = texts[start : start + self.batch_size]
            found = await self._call(part, instance, model)
            vectors += self._floats(found, instance)
            tokens += shares(found.tokens or 0, [len(text) for text in part])
        took_ms = (time.monotonic() - began) * 1000
        self._metrics = replace(
            self._metrics,
            requests=self._metrics.requests + len(requests),
            texts=self._metrics.texts + len(texts),
            busy_ms=self._metrics.busy_ms + took_ms,
        )
        results = []
        at = 0
        for request in requests:
            end = at + len(request.texts)
            results.append(
                EmbeddingResult(request.request_id, model, vectors[at:end], sum(tokens[at:end]), took_ms)
            )
            at = end
        return results

    async def _call(self, texts: list[bytes], instance: ExecutionInstance, model: str) -> Embedded:
        body = call_body(OPENAI_ROUTE, model, texts, (), base64=True)
        self._metrics = replace(self._metrics, calls=self._metrics.calls + 1)
        name = instance.instance_id
        try:
            answer = await self._ask("POST", instance, OPENAI_ROUTE, content=body)
            if answer.status_code in _UNAVAILABLE:
                raise EmbeddingInstanceUnavailableError(name, f"answered {answer.status_code}")
            if answer.status_code != 200:
                message = f"answered {answer.status_code}: {answer.text[:500]}"
                raise EmbeddingRequestError(name, message, answer.status_code)
            return read_answer(OPENAI_ROUTE, answer.content, (), len(texts))
        except httpx.TimeoutException:
            self._failed()
            raise EmbeddingTimeoutError(name, f"did not answer within {self._timeout_s:g} s") from None
        except _NOT_REACHED as error:
            self._failed()
            why = trust.explain(error) or str(error) or type(error).__name__
            raise EmbeddingInstanceUnavailableError(name, f"cannot be reached: {why}") from None
        except BadAnswerError as error:
            self._failed()
            raise EmbeddingRequestError(name, str(error), 200) from None
        except EmbeddingExecutorError:
            self._failed()
            raise

    async def _ask(
        self, method: str, instance: ExecutionInstance, path: str, **options: Any
    ) -> httpx.Response:
        """Send a request; once more if its connection breaks, because the engine may just have closed an idle one."""
        await self.initialize()
        assert self._askers is not None
        secure = instance.scheme == "https"
        client = self._askers.of(trust.context(instance.ca_file) if secure else None, instance.uds)
        url = instance.requests_url + path
        try:
            return await client.request(method, url, headers=self._headers, **options)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return await client.request(method, url, headers=self._headers, **options)

    def _floats(self, found: Embedded, instance: ExecutionInstance) -> list[list[float]]:
        try:
            return [_floats(vector) for vector in found.vectors]
        except VectorError as error:
            self._failed()
            raise EmbeddingRequestError(
                instance.instance_id, f"answered with a vector {error}", 200
            ) from None

    def _failed(self) -> None:
        self._metrics = replace(self._metrics, failures=self._metrics.failures + 1)


@dataclass(frozen=True, slots=True)
class _Request:
    request_id: str
    texts: list[str]


def _floats(vector: bytes | memoryview) -> list[float]:
    packed = packed_bytes(as_base64(vector))
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
