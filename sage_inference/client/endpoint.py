"""Where a client sends a kind of work, and how a URL for it is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_inference.config.address import parse_backend
from sage_inference.config.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server with OpenAI's API. ``url`` has no ``/v1``; ``model`` is sent where a call names none."""

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)


def endpoint(url: str, model: str | None = None, api_key: str | None = None) -> Endpoint:
    """Takes ``http://host:port``, with or without ``/v1``, and ``host:port``. Raises ``ValueError``."""
    try:
        address = parse_backend(url.strip())
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return Endpoint(address.base_url, model or None, api_key or None)
