"""Adapters for older programs: the same clients under older names."""

from __future__ import annotations

from typing import Any, Literal, Self, Unpack

from sage_inference.client.config import DEFAULT_TIMEOUT_S, UnifiedClientConfig
from sage_inference.client.embedded import EmbeddedModel
from sage_inference.client.errors import NoServerFoundError
from sage_inference.client.intelligent import IntelligentEmbeddingClient, IntelligentLLMClient
from sage_inference.client.options import PlainOptions
from sage_inference.client.requests import Texts
from sage_inference.client.results import InferenceResult
from sage_inference.client.vectors import as_array, as_lists
from sage_inference.client.work import Work


class LLMClientAdapter(IntelligentLLMClient):
    """``IntelligentLLMClient`` under its older name."""


class EmbeddingClientAdapter(IntelligentEmbeddingClient):
    """Embeddings from a server (``api``), or from a model in this process (``embedded``)."""

    _embedded: EmbeddedModel | None = None

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        *,
        mode: Literal["api", "embedded"] = "api",
        timeout: float = DEFAULT_TIMEOUT_S,
        **options: Unpack[PlainOptions],
    ) -> None:
        super().__init__(base_url, model, api_key, timeout=timeout, **options)
        if mode not in ("api", "embedded"):
            raise ValueError(f"mode must be api or embedded, not {mode!r}")
        if mode == "embedded":
            self._embedded = EmbeddedModel(model)

    @classmethod
    def create_api(
        cls,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        **options: Unpack[PlainOptions],
    ) -> Self:
        return cls(base_url, model, api_key, **options)

    @classmethod
    def create_embedded(cls, model: str | None = None) -> Self:
        """``model`` is a name or a directory, by default all-MiniLM-L6-v2."""
        client = cls._of(UnifiedClientConfig(embedding_model=model), Work(UnifiedClientConfig(), None, None))
        client._embedded = EmbeddedModel(model)
        return client

    @property
    def mode(self) -> Literal["api", "embedded"]:
        return "api" if self._embedded is None else "embedded"

    @property
    def model_name(self) -> str | None:
        return super().model_name if self._embedded is None else self._embedded.name

    def is_embedding_available(self) -> bool:
        return self._embedded is not None or super().is_embedding_available()

    def embed(  # the overloads still apply: only the source of the vectors differs
        self,
        texts: Texts,
        *,
        as_numpy: bool = False,
        return_result: bool = False,
        **given: Any,
    ) -> Any:
        if self._embedded is None:
            return super().embed(texts, as_numpy=as_numpy, return_result=return_result, **given)
        vectors = self._embedded.vectors([texts] if isinstance(texts, str) else texts)
        rows: Any = as_array(vectors) if as_numpy else as_lists(vectors)
        content = rows[0] if isinstance(texts, str) else rows
        return InferenceResult("", "embed", content, self._embedded.name) if return_result else content


def create_llm_client_compat(
    model_name: str | None = None, base_url: str | None = None, api_key: str | None = None, **options: Any
) -> LLMClientAdapter:
    """A client of ``base_url``, or of the server that detection finds. Raises ``NoServerFoundError``."""
    if base_url:
        return LLMClientAdapter(model_name, base_url, api_key, **options)
    return LLMClientAdapter.create_auto(llm_model=model_name, api_key=api_key, **options)


def create_embedding_client_compat(
    base_url: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    mode: Literal["auto", "api", "embedded"] = "auto",
    **options: Any,
) -> EmbeddingClientAdapter:
    """``auto`` uses ``base_url``, a detected server, or (with the extra) a model in this process, in this order."""
    if mode == "embedded":
        return EmbeddingClientAdapter.create_embedded(model)
    if mode == "api" or base_url:
        return EmbeddingClientAdapter(base_url, model, api_key, **options)
    try:
        return EmbeddingClientAdapter.create_auto(embedding_model=model, api_key=api_key, **options)
    except NoServerFoundError:
        if not _has_embedded():
            raise
        return EmbeddingClientAdapter.create_embedded(model)


def _has_embedded() -> bool:
    from importlib.util import find_spec

    return find_spec("sentence_transformers") is not None
