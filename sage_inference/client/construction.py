"""Makes the parts of a client: its configuration, its endpoints, its transport."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sage_inference.client.config import (
    UnifiedClientConfig,
    UnifiedClientMode,
    embedding_from_environment,
    llm_from_environment,
    unified_from_environment,
)
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.options import ClientOptions
from sage_inference.client.work import Work

if TYPE_CHECKING:
    from sage_inference.client.transport import AsyncTransport, Transport

# Stands for the address of the gateway in this process. Requests to it use no socket.
IN_PROCESS = "http://localhost"


def config_of(
    base_url: str | None, config: UnifiedClientConfig | None, options: ClientOptions
) -> UnifiedClientConfig:
    """``config`` itself, or a configuration made of the arguments. Raises ``TypeError`` if both are given."""
    if config is None:
        return UnifiedClientConfig(base_url=base_url, **options)
    if base_url is not None or options:
        given = ", ".join(["base_url"] * (base_url is not None) + list(options))
        raise TypeError(f"give either config or {given}, not both")
    return config


def work_of(config: UnifiedClientConfig) -> Work:
    """Work for the endpoints of the arguments, otherwise of the environment. Raises ``ValueError`` for an invalid URL."""
    if config.mode is UnifiedClientMode.CONTROL_PLANE:
        models = config.llm_model or config.model, config.embedding_model or config.model
        return Work(config, Endpoint(IN_PROCESS, models[0]), Endpoint(IN_PROCESS, models[1]))
    if config.names_a_server:
        return Work(config, config.llm, config.embedding)
    unified = unified_from_environment()
    llm = _with_model(unified or llm_from_environment(), config.llm_model or config.model)
    embedding = unified or embedding_from_environment()
    return Work(config, llm, _with_model(embedding, config.embedding_model or config.model))


def _with_model(endpoint: Endpoint | None, model: str | None) -> Endpoint | None:
    return replace(endpoint, model=model) if endpoint is not None and model else endpoint


def transport_of(config: UnifiedClientConfig) -> Transport:
    # Imported late, so that a client loads only the transport that it uses.
    if config.mode is UnifiedClientMode.CONTROL_PLANE:
        transport: Transport = _in_process().InProcessTransport(config)
        return transport
    from sage_inference.client.http_sync import HttpTransport

    return HttpTransport()


def async_transport_of(config: UnifiedClientConfig) -> AsyncTransport:
    if config.mode is UnifiedClientMode.CONTROL_PLANE:
        transport: AsyncTransport = _in_process().AsyncInProcessTransport(config)
        return transport
    from sage_inference.client.http_async import AsyncHttpTransport

    return AsyncHttpTransport()


def _in_process() -> Any:
    """The transports of the gateway in this process, loaded by name: the library builds on this package."""
    return import_module("sage_inference.library.in_process")
