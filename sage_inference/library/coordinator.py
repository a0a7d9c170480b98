"""Runs requests on instances with the gateway's relay, without a socket, on the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from sage_inference.client.answers import Answer, chat_result, completion_result, document
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.requests import post
from sage_inference.client.results import InferenceResult
from sage_inference.client.vectors import as_lists, embeddings
from sage_inference.config.backend import Backend
from sage_inference.config.check import name_of
from sage_inference.config.errors import ConfigError
from sage_inference.config.load import parse_instance
from sage_inference.config.settings import InstanceSettings, Settings
from sage_inference.gateway.gateway import Gateway
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.library.config import entry, settings_of
from sage_inference.library.in_process import answered
from sage_inference.library.requests import RequestMetadata
from sage_inference.server import RunningGateway
from sage_inference.types import ExecutionInstance, PerformanceMetrics, RequestType

_HERE = "http://localhost"
_PATHS = {
    RequestType.LLM_CHAT: "/v1/chat/completions",
    RequestType.LLM_GENERATE: "/v1/completions",
    RequestType.EMBEDDING: "/v1/embeddings",
}


class ExecutionCoordinator:
    """Runs requests on registered instances. Use it in one event loop, by ``async with`` or ``start`` and ``stop``."""

    def __init__(self, scheduling: Mapping[str, Any] | None = None) -> None:
        """``scheduling`` is the section of that name in the configuration. Raises ``ValueError``."""
        try:
            self._settings: Settings = settings_of({"scheduling": dict(scheduling or {})}, listens=False)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        self._instances: dict[str, InstanceSettings] = {}
        self._running: RunningGateway | None = None
        self._stack = contextlib.AsyncExitStack()

    @property
    def gateway(self) -> Gateway:
        """The gateway that runs the requests. Raises ``RuntimeError`` before ``start``."""
        if self._running is None:
            raise RuntimeError("not started: await start(), or use async with")
        return self._running.gateway

    async def start(self) -> None:
        """Start. Returns when all registered instances were probed, or after a second, as soon as one serves."""
        if self._running is None:
            running = RunningGateway(self._settings)
            await self._stack.enter_async_context(running.working())
            self._running = running
            for settings in self._instances.values():
                running.fleet.add(settings)
            await running.fleet.looked()

    async def stop(self) -> None:
        """End all requests, and close all connections."""
        if self._running is not None:
            self._running.callers.close()
            self._running = None
            await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def register_instance(self, instance: ExecutionInstance | Backend) -> str:
        """Add an instance. Returns its id. Raises ``ValueError`` if it is invalid or already registered."""
        try:
            settings = parse_instance(_entry_of(instance))
        except ConfigError as error:
            raise ValueError(str(error)) from None
        name = name_of(settings)
        if name in self._instances:
            raise ValueError(f"instance {name} exists already; unregister it first, or give another id")
        self._instances[name] = settings
        if self._running is not None:
            self._running.fleet.add(settings)
        return name

    def unregister_instance(self, instance_id: str) -> bool:
        """Remove an instance. Its running requests finish. False if no instance has that id."""
        if self._running is not None:
            self._running.fleet.remove(instance_id)
        return self._instances.pop(instance_id, None) is not None

    def get_instance(self, instance_id: str) -> ExecutionInstance | None:
        """The instance with its present state, models and load. None if the id is unknown."""
        return self.gateway.registry.instances.get(instance_id)

    def list_instances(self) -> list[ExecutionInstance]:
        """All instances, in the order of their registration. Raises ``RuntimeError`` before ``start``."""
        return list(self.gateway.registry.instances.values())

    async def execute(
        self, request: RequestMetadata, body: Mapping[str, Any] | None = None
    ) -> InferenceResult:
        """Run a request on the instance that the policy chooses. Cancelling the call cancels it in the engine.

        ``body`` has further fields of the API (``messages``, ``seed`` …) and takes precedence over the metadata.
        With ``prompt`` or ``embedding_texts`` in the metadata, no body is needed. The result's ``content`` is a text,
        a list of vectors in the order of the texts, or the engine's document for other routes. Raises
        ``SageInferenceError`` if the request fails, ``TimeoutError`` after the queue's and the first byte's time
        together, ``ValueError`` for a type without a route, and ``RuntimeError`` before ``start``.
        """
        gateway, running = self.gateway, self._running
        assert running is not None
        await running.fleet.looked()
        path = request.route or _PATHS.get(request.request_type)
        if path is None:
            raise ValueError(f"a request of type {request.request_type.value} needs its route")
        fields = {**request.body_fields(), **(body or {})}
        message = post(
            Endpoint(_HERE), path, fields, model=request.effective_model_name, extra_headers=_headers(request)
        )
        answer = await asyncio.wait_for(
            answered(running.callers, message), gateway.timeouts.queue_s + gateway.timeouts.first_byte_s
        )
        return _result(answer, path, request)

    def running_exchange(self, request_id: str) -> Exchange | None:
        """The relay's exchange of a running request."""
        if self._running is None:
            return None
        wanted = request_id.encode()
        for connection in self._running.server.server_state.connections:
            exchange: Exchange | None = getattr(connection, "running", None)
            if exchange is not None and exchange.caller_id == wanted:
                return exchange
        return None

    def get_metrics(self) -> PerformanceMetrics:
        """Counts since ``start``. ``avg_ttft_ms`` is the mean over the instances, None before the first answer."""
        gateway = self.gateway
        outcomes, rates = gateway.stats.outcomes, gateway.scheduler.rates
        ttfts = [ms for engine in gateway.engines.values() if (ms := engine.ttfb_ms) is not None]
        failed = sum(count for (_, status), count in outcomes.items() if status >= 400)
        failed += gateway.stats.cut + gateway.stats.engine_failures
        total = gateway.stats.total
        return PerformanceMetrics(
            total_requests=total,
            completed_requests=total - failed - gateway.stats.cancelled,
            failed_requests=failed,
            cancelled_requests=gateway.stats.cancelled,
            retried_requests=rates.retried,
            active_requests=gateway.in_flight,
            queued_requests=gateway.scheduler.queued,
            requests_per_s=rates.finished_per_s(gateway.clock()),
            avg_ttft_ms=sum(ttfts) / len(ttfts) if ttfts else None,
        )


def _entry_of(instance: ExecutionInstance | Backend) -> dict[str, Any]:
    if not isinstance(instance, ExecutionInstance):
        return entry(instance, "auto")
    fields = {
        "host": instance.host,
        "port": instance.port,
        "model_name": instance.model_name,
        "instance_type": instance.instance_type,
        "max_concurrent_requests": instance.max_concurrent_requests,
        "scheme": instance.scheme,
        "prefix": instance.prefix,
        "ca_file": instance.ca_file,
        "name": instance.instance_id,
        "base_url": instance.base_url if instance.uds else None,
    }
    optional = {"gpu": instance.gpu}
    return entry(fields, "auto") | {key: value for key, value in optional.items() if value}


def _headers(request: RequestMetadata) -> dict[str, str]:
    headers = {"x-request-id": request.request_id, "x-sage-priority": request.priority.name.lower()}
    if request.slo_deadline_ms is not None:
        headers["x-sage-deadline-ms"] = f"{request.slo_deadline_ms:g}"
    return headers


def _result(answer: Answer, path: str, request: RequestMetadata) -> InferenceResult:
    if path == _PATHS[RequestType.LLM_CHAT]:
        return chat_result(answer)
    if path == _PATHS[RequestType.LLM_GENERATE]:
        return completion_result(answer)
    texts: Sequence[str] = request.embedding_texts or ()
    if path == _PATHS[RequestType.EMBEDDING] and texts:
        vectors, found = embeddings(answer, len(texts))
        content: Any = as_lists(vectors)
    else:
        content = found = document(answer)
    usage, model = found.get("usage") or {}, str(found.get("model") or "")
    return InferenceResult(
        request.request_id, "embed", content, model, usage, answer.latency_ms, None, answer.instance, found
    )
