"""The server for a kind of work, and the form of its URL."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server with OpenAI's API. ``url`` has no ``/v1``. ``model`` is sent if a call names no model."""

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)


def endpoint(url: str, model: str | None = None, api_key: str | None = None) -> Endpoint:
    """The endpoint at ``http://host:port``, with or without ``/v1``, or ``host:port``. Raises ``ValueError``."""
    from sage_inference.config.address import (
        parse_backend,
    )  # late: it takes 20 ms, and commands know their URL
    from sage_inference.config.errors import ConfigError

    try:
        address = parse_backend(url.strip())
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return Endpoint(address.base_url, model or None, api_key or None)
