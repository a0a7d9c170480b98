"""The client for tasks: like ``unified``, with ``await``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from sage_inference.client.answers import Answer, checked, model_ids, rankings
from sage_inference.client.attempts import Attempts
from sage_inference.client.config import DEFAULT_TIMEOUT_S, UnifiedClientConfig, UnifiedClientMode
from sage_inference.client.construction import async_transport_of, config_of, work_of
from sage_inference.client.errors import SageInferenceError
from sage_inference.client.options import ClientOptions, ServerOptions
from sage_inference.client.requests import Messages, Prompt, Request, Texts
from sage_inference.client.results import InferenceResult, Ranking
from sage_inference.client.work import GenerationCall, Options, Piece, PieceRead, Work, WorkKind, lacks_route

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sage_inference.client.streams import AsyncTextStream
    from sage_inference.client.transport import AsyncTransport
    from sage_inference.config.backend import Backend

T = TypeVar("T")


class AsyncUnifiedInferenceClient:
    """Like ``UnifiedInferenceClient``, but in an event loop: await its methods, and read streams with ``async for``."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        config: UnifiedClientConfig | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self.config = config_of(base_url, config, options)
        self._work = work_of(self.config)
        self._carrier: AsyncTransport | None = async_transport_of(self.config)

    # Constructors

    @classmethod
    async def create_auto(
        cls,
        llm_model: str | None = None,
        embedding_model: str | None = None,
        prefer_local: bool = True,
        llm_ports: Sequence[int] = (8001, 8000),
        embedding_ports: Sequence[int] = (8090, 8080),
        timeout: float = DEFAULT_TIMEOUT_S,
        allow_cloud: bool | None = None,
        **options: Unpack[ServerOptions],
    ) -> Self:
        """Like ``UnifiedInferenceClient.create_auto``."""
        from sage_inference.client.detection import SearchCriteria, find

        config = UnifiedClientConfig(
            llm_model=llm_model, embedding_model=embedding_model, timeout=timeout, **options
        )
        criteria = SearchCriteria(
            config=config,
            prefer_local=prefer_local,
            llm_ports=llm_ports,
            embedding_ports=embedding_ports,
            allow_cloud=allow_cloud,
        )
        search = await find(criteria)
        client = cls(config=config)
        client._work = Work(config, search.found.get("llm"), search.found.get("embedding"), search.tried)
        return client

    @classmethod
    def create_with_control_plane(
        cls,
        instances: Sequence[Backend] = (),
        *,
        llm_base_url: str | None = None,
        llm_model: str | None = None,
        embedding_base_url: str | None = None,
        embedding_model: str | None = None,
        scheduling_policy: str = "hybrid",
        embedding_batch_size: int = 32,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_retries: int = 2,
        **scheduling: Any,
    ) -> Self:
        """Like ``UnifiedInferenceClient.create_with_control_plane``."""
        return cls(
            config=UnifiedClientConfig(
                mode=UnifiedClientMode.CONTROL_PLANE,
                instances=tuple(instances),
                llm_base_url=llm_base_url,
                llm_model=llm_model,
                embedding_base_url=embedding_base_url,
                embedding_model=embedding_model,
                scheduling_policy=scheduling_policy,
                embedding_batch_size=embedding_batch_size,
                timeout=timeout,
                max_retries=max_retries,
                scheduling=scheduling,
            )
        )

    # Text

    @overload
    async def chat(self, messages: Messages, *, stream: Literal[True], **fields: Any) -> AsyncTextStream: ...
    @overload
    async def chat(
        self, messages: Messages, *, return_result: Literal[True], **fields: Any
    ) -> InferenceResult: ...
    @overload
    async def chat(self, messages: Messages, **fields: Any) -> str: ...

    async def chat(
        self,
        messages: Messages,
        *,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        stream: bool = False,
        return_result: bool = False,
        timeout: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> str | InferenceResult | AsyncTextStream:
        """The answer's text. With ``return_result`` an ``InferenceResult``, with ``stream`` an ``AsyncTextStream``.

        Arguments and errors are those of ``UnifiedInferenceClient.chat``.
        """
        fields.update(temperature=temperature, max_tokens=max_tokens, stream=stream or None)
        options = Options(model, timeout, extra_body, extra_headers)
        return await self._generated(self._work.chat(messages, fields, options), stream, return_result)

    @overload
    async def generate(self, prompt: Prompt, *, stream: Literal[True], **fields: Any) -> AsyncTextStream: ...
    @overload
    async def generate(
        self, prompt: Prompt, *, return_result: Literal[True], **fields: Any
    ) -> InferenceResult: ...
    @overload
    async def generate(self, prompt: Prompt, **fields: Any) -> str: ...

    async def generate(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        stream: bool = False,
        return_result: bool = False,
        timeout: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> str | InferenceResult | AsyncTextStream:
        """The continuation of ``prompt``, which is a text or its token ids. Other arguments are as in ``chat``."""
        fields.update(temperature=temperature, max_tokens=max_tokens, stream=stream or None)
        options = Options(model, timeout, extra_body, extra_headers)
        return await self._generated(self._work.generate(prompt, fields, options), stream, return_result)

    async def _generated(
        self, work: GenerationCall, stream: bool, return_result: bool
    ) -> str | InferenceResult | AsyncTextStream:
        transport = self._transport
        if stream:
            from sage_inference.client.streams import AsyncTextStream

            body = await _attempted(work.attempts, lambda left: transport.open(work.request, left))
            return await AsyncTextStream.begun(body, work.streamed(body.head))

        async def attempt(left: float) -> InferenceResult:
            return work.read(await transport.send(work.request, left))

        result = await _attempted(work.attempts, attempt)
        return result if return_result else result.text

    # Vectors

    @overload
    async def embed(
        self, texts: Texts, *, return_result: Literal[True], **fields: Any
    ) -> InferenceResult: ...
    @overload
    async def embed(self, texts: Texts, *, as_numpy: Literal[True], **fields: Any) -> NDArray[np.float32]: ...
    @overload
    async def embed(self, texts: str, **fields: Any) -> list[float]: ...
    @overload
    async def embed(self, texts: Sequence[str], **fields: Any) -> list[list[float]]: ...

    async def embed(
        self,
        texts: Texts,
        *,
        model: str | None = None,
        as_numpy: bool = False,
        return_result: bool = False,
        timeout: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Any:
        """The vector of a text, or the list of the vectors of several texts. See ``UnifiedInferenceClient.embed``."""
        options = Options(model, timeout, extra_body, extra_headers)
        work = self._work.embed(texts, fields, options, as_numpy)
        transport = self._transport

        async def read(piece: Piece) -> PieceRead:
            async def attempt(left: float) -> PieceRead:
                return piece.read(await transport.send(piece.request, left))

            return await _attempted(piece.attempts, attempt)

        opened = [await read(piece) for piece in work.opening()]
        rest = work.rest(opened)
        self._work.embeds_by(work)
        result = work.result(opened + await self._each(read, rest))
        return result if return_result else result.content

    async def _each(self, do: Callable[[Piece], Awaitable[T]], pieces: Sequence[Piece]) -> list[T]:
        """Call ``do`` for each piece, several at once. The first failure ends the rest."""
        slots = asyncio.Semaphore(self.config.embedding_concurrency)

        async def one(piece: Piece) -> T:
            async with slots:
                return await do(piece)

        tasks = [asyncio.create_task(one(piece)) for piece in pieces]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def rerank(
        self,
        query: str,
        texts: Sequence[str],
        *,
        model: str | None = None,
        timeout: float | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> list[Ranking]:
        """The texts ranked by how well they answer the query, best first. Raises ``SageInferenceError``."""
        options = Options(model, timeout, extra_body, extra_headers)
        ways = self._work.rerank(query, texts, fields, options)
        request, answer = await self._first(ways, self._work.attempts(timeout))
        self._work.rerank_works_by(request)
        return rankings(answer)

    # Status

    async def models(self) -> list[str]:
        """The names of the models that the client's servers list."""
        found: list[str] = []
        for ways in self._work.model_lists():
            _, answer = await self._first(ways, self._work.attempts())
            found += model_ids(answer)
        return list(dict.fromkeys(found))

    async def is_llm_available(self) -> bool:
        """Whether a server for chat and completions answers now."""
        return await self._available("llm")

    async def is_embedding_available(self) -> bool:
        return await self._available("embedding")

    async def _available(self, kind: WorkKind) -> bool:
        endpoint = self._work.endpoints[kind]
        return endpoint is not None and await self._transport.serves(endpoint, kind)

    @property
    def is_control_plane_mode(self) -> bool:
        return self.config.mode is UnifiedClientMode.CONTROL_PLANE

    async def get_status(self) -> dict[str, Any]:
        """The server for each kind of work, and whether it is available now."""
        available = {kind: await self._available(kind) for kind in self._work.endpoints}
        return {**self._work.status(available), **await self._transport.details()}

    # Closing

    async def aclose(self) -> None:
        """Close all connections. A further call has no effect."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            await carrier.aclose()

    close = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def _transport(self) -> AsyncTransport:
        if self._carrier is None:
            raise SageInferenceError("this client is closed")
        return self._carrier

    async def _first(self, ways: Sequence[Request], attempts: Attempts) -> tuple[Request, Answer]:
        """The first of several requests whose route the server has, and the answer."""
        missing: SageInferenceError | None = None
        for request in ways:
            try:
                return request, await self._good(request, attempts)
            except SageInferenceError as error:
                if not lacks_route(error):
                    raise
                missing = missing or error
        assert missing is not None
        raise missing

    async def _good(self, request: Request, attempts: Attempts) -> Answer:
        transport = self._transport

        async def attempt(left: float) -> Answer:
            return checked(await transport.send(request, left))

        return await _attempted(attempts, attempt)


async def _attempted(attempts: Attempts, attempt: Callable[[float], Awaitable[T]]) -> T:
    """The result of the first attempt that succeeds. ``attempt`` gets its time limit in seconds."""
    while True:
        try:
            return await attempt(attempts.remaining())
        except SageInferenceError as error:
            await asyncio.sleep(attempts.delay_after(error))
