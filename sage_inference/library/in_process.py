"""Control-plane mode: a client's requests go through a gateway in its own process, which schedules like the daemon."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from sage_inference.client.answers import Answer
from sage_inference.client.config import UnifiedClientConfig
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.errors import InferenceConnectionError, InferenceTimeoutError
from sage_inference.client.requests import Request
from sage_inference.config.errors import ConfigError
from sage_inference.config.settings import Settings
from sage_inference.gateway.api.status import status_document
from sage_inference.gateway.in_process import CutShortError, InProcessClient, InProcessResponse
from sage_inference.library.config import entry, settings_of
from sage_inference.library.local import LocalGateway, leave, use

T = TypeVar("T")


def settings_from(config: UnifiedClientConfig) -> Settings:
    """Raises ``ValueError`` for invalid instances or an unknown policy."""
    try:
        instances = [entry(one, "auto") for one in config.instances]
        for url, kind, key in (
            (config.llm_base_url, "llm", config.llm_api_key),
            (config.embedding_base_url, "embedding", config.embedding_api_key),
            (config.base_url, "auto", config.api_key),
        ):
            if url:
                instances.append({"url": url, "kind": kind} | ({"api_key": key} if key else {}))
        scheduling = {"policy": str(config.scheduling_policy), **config.scheduling}
        if config.embedding_batch_size is not None:
            scheduling["embedding_batch_size"] = config.embedding_batch_size
        document = {"instances": instances, "scheduling": scheduling}
        return settings_of(document, listens=False)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class _Local:
    """A client's reference to its gateway. After a fork the child gets a gateway of its own."""

    def __init__(self, config: UnifiedClientConfig) -> None:
        self._settings = settings_from(config)
        self._pid = os.getpid()
        self._gateway: LocalGateway | None = use(self._settings)

    @property
    def gateway(self) -> LocalGateway:
        if self._gateway is None or self._pid != os.getpid():
            self._pid, self._gateway = os.getpid(), use(self._settings)
        return self._gateway

    def leave(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None and self._pid == os.getpid():
            leave(gateway)


async def _opened(callers: InProcessClient, request: Request) -> tuple[InProcessResponse, Answer]:
    """The reply to a request, and its head. For an error, the head has the body as well."""
    since = time.perf_counter()
    method = b"GET" if request.body is None else b"POST"
    named = {"host": "localhost", "x-request-id": request.request_id, **request.headers}
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    reply = callers.send(method, request.path.encode(), headers, request.body or b"")
    try:
        await reply.head()
        body = b"".join([piece async for piece in reply]) if reply.status >= 400 else b""
    except CutShortError as error:
        raise _broken(error, request) from error
    except BaseException:  # also if cancelled, because the caller left or its time is over
        reply.abandon()
        raise
    received = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    took = (time.perf_counter() - since) * 1000
    return reply, Answer(reply.status, received, body, request.request_id, took)


async def answered(callers: InProcessClient, request: Request) -> Answer:
    """The whole answer to a request. Runs on the gateway's event loop; cancelling it cancels the request."""
    since = time.perf_counter()
    reply, head = await _opened(callers, request)
    try:
        body = head.body or b"".join([piece async for piece in reply])
    except CutShortError as error:
        raise _broken(error, request) from error
    finally:
        reply.abandon()
    took = (time.perf_counter() - since) * 1000
    return Answer(head.status, head.headers, body, head.request_id, took)


async def _piece(reply: InProcessResponse, request: Request) -> bytes:
    try:
        return await reply.piece()
    except CutShortError as error:
        raise _broken(error, request) from error


def _broken(error: CutShortError, request: Request) -> InferenceConnectionError:
    return InferenceConnectionError(str(error), request_id=request.request_id)


async def _serves(local: LocalGateway, kind: str) -> bool:
    available = [i for i in local.running.gateway.registry.instances.values() if i.is_available]
    return any(
        i.instance_type.serves_llm if kind == "llm" else i.instance_type.serves_embeddings for i in available
    )


async def _details(local: LocalGateway) -> dict[str, Any]:
    return {"gateway": status_document(local.running.gateway)}


class InProcessStream:
    """The body of one answer, as it arrives."""

    def __init__(
        self, local: LocalGateway, reply: InProcessResponse, head: Answer, request: Request, timeout: float
    ) -> None:
        self.head = head
        self._local = local
        self._reply = reply
        self._request = request
        self._timeout = timeout

    def __iter__(self) -> Iterator[bytes]:
        while data := _waited(
            self._local.run(_piece(self._reply, self._request)), self._request, self._timeout
        ):
            yield data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await _awaited(
            self._local.run(_piece(self._reply, self._request)), self._request, self._timeout
        ):
            yield data

    def close(self) -> None:
        self._local.loop.call_soon_threadsafe(self._reply.abandon)

    async def aclose(self) -> None:
        self.close()


class InProcessTransport:
    """A transport for threads."""

    def __init__(self, config: UnifiedClientConfig) -> None:
        self._local = _Local(config)

    def send(self, request: Request, timeout: float) -> Answer:
        local = self._local.gateway
        return _waited(local.run(answered(local.callers, request)), request, timeout)

    def open(self, request: Request, timeout: float) -> InProcessStream:
        local = self._local.gateway
        reply, head = _waited(local.run(_opened(local.callers, request)), request, timeout)
        return InProcessStream(local, reply, head, request, timeout)

    def serves(self, endpoint: Endpoint, kind: str) -> bool:
        local = self._local.gateway
        return local.run(_serves(local, kind)).result()

    def details(self) -> dict[str, Any]:
        local = self._local.gateway
        return local.run(_details(local)).result()

    def close(self) -> None:
        self._local.leave()


class AsyncInProcessTransport:
    """A transport for tasks of any event loop. The gateway has a loop of its own."""

    def __init__(self, config: UnifiedClientConfig) -> None:
        self._local = _Local(config)

    async def send(self, request: Request, timeout: float) -> Answer:
        local = self._local.gateway
        return await _awaited(local.run(answered(local.callers, request)), request, timeout)

    async def open(self, request: Request, timeout: float) -> InProcessStream:
        local = self._local.gateway
        reply, head = await _awaited(local.run(_opened(local.callers, request)), request, timeout)
        return InProcessStream(local, reply, head, request, timeout)

    async def serves(self, endpoint: Endpoint, kind: str) -> bool:
        local = self._local.gateway
        return await asyncio.wrap_future(local.run(_serves(local, kind)))

    async def details(self) -> dict[str, Any]:
        local = self._local.gateway
        return await asyncio.wrap_future(local.run(_details(local)))

    async def aclose(self) -> None:
        await asyncio.to_thread(self._local.leave)


def _waited(future: Future[T], request: Request, timeout: float) -> T:
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        future.cancel()
        raise _late(request, timeout) from None
    except BaseException:
        future.cancel()  # also on an interrupt, because the caller left
        raise


async def _awaited(future: Future[T], request: Request, timeout: float) -> T:
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise _late(request, timeout) from None


def _late(request: Request, timeout: float) -> InferenceTimeoutError:
    return InferenceTimeoutError(f"no answer within {timeout:.3g} s", request_id=request.request_id)
