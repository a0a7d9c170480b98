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
    """``simple``: requests go to servers by HTTP. ``control_plane``: the client schedules over instances itself."""

    SIMPLE = "simple"
    CONTROL_PLANE = "control_plane"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedClientConfig:
    """The configuration of a client. Raises ``ValueError`` for a value that is out of range.

    ``base_url``, ``model`` and ``api_key`` apply to both kinds of work. A value for one kind takes precedence.
    ``timeout``: seconds for a whole call with its retries. For a stream it limits the wait for its beginning, and the
    gap between two pieces.
    ``max_retries``: attempts after the first one.
    ``embedding_batch_size``: the most texts in one request; longer lists are cut. None means 32 for an engine, and 256
    for a gateway, which cuts requests for its engines.
    ``embedding_concurrency``: requests of one call that run at once.
    ``instances``, ``scheduling_policy`` and ``scheduling`` (other keys of that section of the configuration) apply to
    the control plane.
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
