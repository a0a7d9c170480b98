"""A client's configuration, and the endpoints in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage_inference.choices import Choice
from sage_inference.client.endpoint import Endpoint, endpoint

DEFAULT_TIMEOUT_S = 120.0


class UnifiedClientMode(Choice, StrEnum):
    """A client sends requests to servers by HTTP, or schedules over instances itself."""

    SIMPLE = "simple"
    CONTROL_PLANE = "control_plane"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedClientConfig:
    """``base_url`` is for both kinds of work. A URL for one kind takes precedence.

    ``timeout`` is in seconds, for a whole call with its retries; of a stream, until it begins and between two
    pieces. ``max_retries`` counts further attempts. ``embedding_batch_size`` is the most texts in one request.
    Longer lists are cut, and ``embedding_concurrency`` requests run at once. None means 32, and 256 through a
    gateway, which cuts them for its engines. ``instances``, ``scheduling_policy`` and ``scheduling`` (other keys of
    that section of the configuration) are for the control plane.
    """

    base_url: str | None = None
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    llm_base_url: str | None = None
    llm_model: str | None = None
    llm_api_key: str | None = field(default=None, repr=False)
    embedding_base_url: str | None = None
    embedding_model: str | None = None
    embedding_api_key: str | None = field(default=None, repr=False)
    mode: UnifiedClientMode = UnifiedClientMode.SIMPLE
    instances: tuple[Any, ...] = ()
    scheduling_policy: str = "hybrid"
    scheduling: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT_S
    max_retries: int = 2
    embedding_batch_size: int | None = None
    embedding_concurrency: int = 8

    def __post_init__(self) -> None:
        for name, least in (("timeout", 0.001), ("embedding_batch_size", 1), ("embedding_concurrency", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise ValueError(f"{name} must be at least {least}, not {given}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries must not be negative, is {self.max_retries}")

    @property
    def names_a_server(self) -> bool:
        return bool(self.base_url or self.llm_base_url or self.embedding_base_url)

    @property
    def llm(self) -> Endpoint | None:
        url = self.llm_base_url or self.base_url
        return endpoint(url, self.llm_model or self.model, self.llm_api_key or self.api_key) if url else None

    @property
    def embedding(self) -> Endpoint | None:
        url = self.embedding_base_url or self.base_url
        key = self.embedding_api_key or self.api_key
        return endpoint(url, self.embedding_model or self.model, key) if url else None


def unified_from_environment(environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The server in ``SAGE_UNIFIED_BASE_URL``. Raises ``ValueError`` if it is not a URL."""
    return _from_environment("SAGE_UNIFIED", environ)


def llm_from_environment(environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    return _from_environment("SAGE_CHAT", environ)


def embedding_from_environment(environ: Mapping[str, str] = os.environ) -> Endpoint | None:
    return _from_environment("SAGE_EMBEDDING", environ)


def _from_environment(prefix: str, environ: Mapping[str, str]) -> Endpoint | None:
    url = environ.get(f"{prefix}_BASE_URL", "").strip()
    if not url:
        return None
    try:
        return endpoint(url, environ.get(f"{prefix}_MODEL"), environ.get(f"{prefix}_API_KEY"))
    except ValueError as error:
        raise ValueError(f"{prefix}_BASE_URL: {error}") from None
