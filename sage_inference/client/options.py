"""The keyword arguments of the clients' constructors, typed once. See ``UnifiedClientConfig``."""

from __future__ import annotations

from typing import TypedDict


class PlainOptions(TypedDict, total=False):
    """Options of every client."""

    max_retries: int
    embedding_batch_size: int | None
    embedding_concurrency: int


class _Options(PlainOptions, total=False):
    model: str | None
    api_key: str | None
    llm_base_url: str | None
    llm_api_key: str | None
    embedding_base_url: str | None
    embedding_api_key: str | None


class ClientOptions(_Options, total=False):
    """Options of the constructor, beside ``base_url``."""

    llm_model: str | None
    embedding_model: str | None
    timeout: float


class ServerOptions(_Options, total=False):
    """Options of ``create_auto`` beside its parameters."""

    base_url: str | None
