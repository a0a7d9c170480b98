"""Composes an engine's address from its parts."""

from __future__ import annotations

import re

from sage_inference.netloc import netloc

# A prefix has no query, fragment or space, because the route of each call is appended.
_PREFIX = re.compile(r"(/[^\s/?#]+)*")


def scheme_of(given: str) -> str:
    """The scheme in lower case. Raises ``ValueError`` for any but ``http`` and ``https``."""
    scheme = given.lower() if isinstance(given, str) else ""
    if scheme not in ("http", "https"):
        raise ValueError(f"scheme must be http or https, not {given!r}")
    return scheme


def prefix_of(given: str | None) -> str:
    """The path before ``/v1``, without ``/v1`` and without a slash at its end. Raises ``ValueError`` if it is no path."""
    if given is None:
        return ""
    prefix = without_version(given) if isinstance(given, str) else given
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix must be a path like /llama, not {given!r}")
    return prefix


def without_version(path: str) -> str:
    """``path`` without ``/v1`` and slashes at its end, because the route of each call begins with ``/v1``."""
    return path.rstrip("/").removesuffix("/v1").rstrip("/")


def base_url(scheme: str, host: str, port: int, prefix: str) -> str:
    """The address before ``/v1``, with an IPv6 host in brackets."""
    return f"{scheme}://{netloc(host, port)}{prefix}"
