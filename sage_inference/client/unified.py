"""The client for threads: chat, text, embeddings and rankings from a gateway, an engine or several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, Unpack, overload

from sage_inference.client.answers import Answer, checked, model_ids, rankings
from sage_inference.client.attempts import Attempts
from sage_inference.client.config import DEFAULT_TIMEOUT_S, UnifiedClientConfig, UnifiedClientMode
from sage_inference.client.construction import config_of, transport_of, work_of
from sage_inference.client.errors import SageInferenceError
from sage_inference.client.options import ClientOptions, ServerOptions
from sage_inference.client.requests import Messages, Prompt, Request, Texts
from sage_inference.client.results import InferenceResult, Ranking
from sage_inference.client.work import GenerationCall, Options, Piece, PieceRead, Work, WorkKind, lacks_route

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sage_inference.client.streams import TextStream
    from sage_inference.client.transport import Transport
    from sage_inference.config.backend import Backend

T = TypeVar("T")


class UnifiedInferenceClient:
    """One client for the models of this workstation. It is thread-safe and survives a fork.

    ``UnifiedInferenceClient("http://127.0.0.1:8000")`` uses a gateway or an engine. With ``llm_base_url`` and
    ``embedding_base_url`` each kind of work has a server of its own. Without a URL, the URLs in the
    ``SAGE_*_BASE_URL`` variables are used. ``create_auto`` finds servers. ``create_with_control_plane`` makes a client
    that schedules over several servers itself. ``UnifiedClientConfig`` describes all options. A call that
    fails raises ``SageInferenceError``.
    """

    _instances: ClassVar[dict[str, UnifiedInferenceClient]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        base_url: str | None = None,
        *,
        config: UnifiedClientConfig | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        chosen = config_of(base_url, config, options)
        self._set_up(chosen, work_of(chosen))

    def _set_up(self, config: UnifiedClientConfig, work: Work) -> None:
        self.config = config
        self._work = work
        self._carrier: Transport | None = transport_of(config)

    @classmethod
    def _of(cls, config: UnifiedClientConfig, work: Work | None = None) -> Self:
        """Make a client without its constructor, because derived clients have other arguments there."""
        client = cls.__new__(cls)
        client._set_up(config, work or work_of(config))
        return client

    # Constructors

    @classmethod
    def create_auto(
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
        """A client of detected servers: arguments, environment, running gateway, local ports, cloud if allowed.

        The cloud (DashScope) is used only if ``DASHSCOPE_API_KEY`` is set, or if ``allow_cloud`` is True and
        ``SAGE_CHAT_API_KEY`` is set, and never with ``allow_cloud=False``. Raises ``NoServerFoundError``.
        """
        from sage_inference.client.detection import SearchCriteria, find
        from sage_inference.client.run_in_thread import run_apart

        config = UnifiedClientConfig(
            llm_model=llm_model, embedding_model=embedding_model, timeout=timeout, **options
        )
        criteria = SearchCriteria(
            config=config,
            kinds=cls._kinds,
            prefer_local=prefer_local,
            llm_ports=llm_ports,
            embedding_ports=embedding_ports,
            allow_cloud=allow_cloud,
        )
        search = run_apart(find(criteria))
        found = search.found
        return cls._of(config, Work(config, found.get("llm"), found.get("embedding"), search.tried))

    _kinds: ClassVar[tuple[str, ...]] = ("llm", "embedding")

    @classmethod
    def get_instance(cls, instance_key: str = "default", **options: Any) -> Self:
        """The client of that key. If it does not exist or is closed, ``create_auto(**options)`` makes it."""
        key = f"{cls.__name__}:{instance_key}"
        with UnifiedInferenceClient._lock:
            found = UnifiedInferenceClient._instances.get(key)
            if not isinstance(found, cls) or found._carrier is None:
                found = cls.create_auto(**options)
                UnifiedInferenceClient._instances[key] = found
            return found

    @classmethod
    def clear_instances(cls) -> None:
        """Close and forget all clients that ``get_instance`` made."""
        with UnifiedInferenceClient._lock:
            instances = list(UnifiedInferenceClient._instances.values())
            UnifiedInferenceClient._instances.clear()
        for client in instances:
            client.close()

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
        """A client that schedules over the instances itself, as a gateway does, on a thread of this process.

        An instance is ``{"host", "port", "model_name", "instance_type"}``, with any other fields of
        ``BackendInstanceConfig``. ``scheduling`` has other keys of that section of the configuration, such as
        ``embedding_priority``. Raises ``ValueError`` for an invalid instance, policy or key.
        """
        return cls._of(
            UnifiedClientConfig(
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
    def chat(self, messages: Messages, *, stream: Literal[True], **fields: Any) -> TextStream: ...
    @overload
    def chat(self, messages: Messages, *, return_result: Literal[True], **fields: Any) -> InferenceResult: ...
    @overload
    def chat(self, messages: Messages, **fields: Any) -> str: ...

    def chat(
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
    ) -> str | InferenceResult | TextStream:
        """The answer's text. With ``return_result`` an ``InferenceResult``, with ``stream`` a ``TextStream``.

        ``messages`` are OpenAI's, or a text, which becomes a user's message. All other ``fields`` (``tools``, ``seed``,
        ``response_format`` …) are sent unchanged. Fields that are None are not sent. ``timeout`` in seconds replaces
        the client's. ``extra_body`` overrides fields of the body. Raises ``SageInferenceError``.
        """
        fields.update(temperature=temperature, max_tokens=max_tokens, stream=stream or None)
        options = Options(model, timeout, extra_body, extra_headers)
        return self._generated(self._work.chat(messages, fields, options), stream, return_result)

    @overload
    def generate(self, prompt: Prompt, *, stream: Literal[True], **fields: Any) -> TextStream: ...
    @overload
    def generate(self, prompt: Prompt, *, return_result: Literal[True], **fields: Any) -> InferenceResult: ...
    @overload
    def generate(self, prompt: Prompt, **fields: Any) -> str: ...

    def generate(
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
    ) -> str | InferenceResult | TextStream:
        """The continuation of ``prompt``, which is a text or its token ids. Other arguments are as in ``chat``."""
        fields.update(temperature=temperature, max_tokens=max_tokens, stream=stream or None)
        options = Options(model, timeout, extra_body, extra_headers)
        return self._generated(self._work.generate(prompt, fields, options), stream, return_result)

    def _generated(
        self, work: GenerationCall, stream: bool, return_result: bool
    ) -> str | InferenceResult | TextStream:
        transport = self._transport
        if stream:
            from sage_inference.client.streams import TextStream

            body = _attempted(work.attempts, lambda left: transport.open(work.request, left))
            return TextStream(body, work.streamed(body.head))
        result = _attempted(work.attempts, lambda left: work.read(transport.send(work.request, left)))
        return result if return_result else result.text

    # Vectors

    @overload
    def embed(self, texts: Texts, *, return_result: Literal[True], **fields: Any) -> InferenceResult: ...
    @overload
    def embed(self, texts: Texts, *, as_numpy: Literal[True], **fields: Any) -> NDArray[np.float32]: ...
    @overload
    def embed(self, texts: str, **fields: Any) -> list[float]: ...
    @overload
    def embed(self, texts: Sequence[str], **fields: Any) -> list[list[float]]: ...

    def embed(
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
        """The vector of a text, or the list of the vectors of several texts, in their order.

        With ``as_numpy`` it is an array of float32: one vector, or one row per text. With ``return_result`` it is an
        ``InferenceResult`` that has this content. Raises ``SageInferenceError``.
        """
        options = Options(model, timeout, extra_body, extra_headers)
        work = self._work.embed(texts, fields, options, as_numpy)
        transport = self._transport

        def read(piece: Piece) -> PieceRead:
            return _attempted(piece.attempts, lambda left: piece.read(transport.send(piece.request, left)))

        opened = [read(piece) for piece in work.opening()]
        rest = work.rest(opened)
        self._work.embeds_by(work)
        result = work.result(opened + self._each(read, rest))
        return result if return_result else result.content

    def _each(self, do: Callable[[Piece], T], pieces: Sequence[Piece]) -> list[T]:
        """Call ``do`` for each piece, several at once. The first failure ends the rest."""
        if len(pieces) < 2:
            return [do(piece) for piece in pieces]
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

        pool = ThreadPoolExecutor(min(len(pieces), self.config.embedding_concurrency))
        try:
            futures = [pool.submit(do, piece) for piece in pieces]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((one for one in futures if one in done and one.exception() is not None), None)
            return [failed.result()] if failed is not None else [one.result() for one in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # running ones cannot be cancelled

    def rerank(
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
        request, answer = self._first(ways, self._work.attempts(timeout))
        self._work.rerank_works_by(request)
        return rankings(answer)

    # Status

    def models(self) -> list[str]:
        """The names of the models that the client's servers list."""
        found: list[str] = []
        for ways in self._work.model_lists():
            _, answer = self._first(ways, self._work.attempts())
            found += model_ids(answer)
        return list(dict.fromkeys(found))

    def is_llm_available(self) -> bool:
        """Whether a server for chat and completions answers now."""
        return self._available("llm")

    def is_embedding_available(self) -> bool:
        return self._available("embedding")

    def _available(self, kind: WorkKind) -> bool:
        endpoint = self._work.endpoints[kind]
        return endpoint is not None and self._transport.serves(endpoint, kind)

    @property
    def is_control_plane_mode(self) -> bool:
        return self.config.mode is UnifiedClientMode.CONTROL_PLANE

    def get_status(self) -> dict[str, Any]:
        """The server for each kind of work, and whether it is available now."""
        available = {kind: self._available(kind) for kind in self._work.endpoints}
        return {**self._work.status(available), **self._transport.details()}

    # Closing

    def close(self) -> None:
        """Close all connections. A further call has no effect."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _transport(self) -> Transport:
        if self._carrier is None:
            raise SageInferenceError("this client is closed")
        return self._carrier

    def _first(self, ways: Sequence[Request], attempts: Attempts) -> tuple[Request, Answer]:
        """The first of several requests whose route the server has, and the answer."""
        missing: SageInferenceError | None = None
        for request in ways:
            try:
                return request, self._good(request, attempts)
            except SageInferenceError as error:
                if not lacks_route(error):
                    raise
                missing = missing or error
        assert missing is not None
        raise missing

    def _good(self, request: Request, attempts: Attempts) -> Answer:
        transport = self._transport
        return _attempted(attempts, lambda left: checked(transport.send(request, left)))


def _attempted(attempts: Attempts, attempt: Callable[[float], T]) -> T:
    """The result of the first attempt that succeeds. ``attempt`` gets its time limit in seconds."""
    while True:
        try:
            return attempt(attempts.remaining())
        except SageInferenceError as error:
            time.sleep(attempts.delay_after(error))
