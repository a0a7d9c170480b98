"""Clients for one kind of work, with the constructors that older programs use."""

from __future__ import annotations

from typing import ClassVar, Unpack

from sage_inference.client.config import DEFAULT_TIMEOUT_S, UnifiedClientConfig
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.options import PlainOptions
from sage_inference.client.unified import UnifiedInferenceClient


class _OneKind(UnifiedInferenceClient):
    """A client for one kind of work, with its endpoint as attributes as in older clients."""

    @property
    def _only(self) -> Endpoint | None:
        return self._work.endpoints["llm" if self._kinds == ("llm",) else "embedding"]

    @property
    def base_url(self) -> str | None:
        return self._only.url if self._only else None

    @property
    def api_key(self) -> str | None:
        return self._only.api_key if self._only else None

    @property
    def model_name(self) -> str | None:
        return self._only.model if self._only else None


class IntelligentLLMClient(_OneKind):
    """A client for chat and completions. ``create_auto`` looks for a server of that kind only."""

    _kinds: ClassVar[tuple[str, ...]] = ("llm",)

    def __init__(
        self,
        model_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        **options: Unpack[PlainOptions],
    ) -> None:
        super().__init__(
            config=UnifiedClientConfig(
                llm_model=model_name, llm_base_url=base_url, llm_api_key=api_key, timeout=timeout, **options
            )
        )


class IntelligentEmbeddingClient(_OneKind):
    """A client for embeddings. ``create_auto`` looks for a server of that kind only."""

    _kinds: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(
        self,
        base_url: str | None = None,
        model: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        **options: Unpack[PlainOptions],
    ) -> None:
        super().__init__(
            config=UnifiedClientConfig(
                embedding_base_url=base_url,
                embedding_model=model,
                embedding_api_key=api_key,
                timeout=timeout,
                **options,
            )
        )

    @property
    def model(self) -> str | None:
        return self.model_name
