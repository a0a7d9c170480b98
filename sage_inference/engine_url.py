"""Composes an engine's address from its parts."""

from __future__ import annotations

import posixpath
import re

from sage_inference.netloc import origin

UNIX = "unix:"
AT_SOCKET = "http://localhost"  # the address in requests over a Unix socket, and so the Host header
MOST_PATH_BYTES = 107  # the kernel's limit for the path of a socket, without the final NUL

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


def base_url(scheme: str, host: str, port: int, prefix: str, uds: str | None = None) -> str:
    """The address before ``/v1``, with an IPv6 host in brackets; ``unix:/path`` for a Unix socket."""
    return UNIX + uds if uds else origin(host, port, scheme == "https") + prefix


def socket_path(given: str) -> str:
    """The path of a Unix socket in its shortest form. Raises ``ValueError`` with the reason if it can be none."""
    if not given.startswith("/"):
        raise ValueError("the path of a Unix socket must be absolute, as in unix:/run/vllm.sock")
    if given.endswith("/"):
        raise ValueError("the path is a directory's: a Unix socket is a file")
    if posixpath.basename(given) == "v1":
        raise ValueError("nothing follows the path of a Unix socket: write it without /v1")
    size = len(given.encode("utf-8", "surrogateescape"))
    if size > MOST_PATH_BYTES:
        raise ValueError(
            f"the path has {size} bytes, and a Unix socket's has at most {MOST_PATH_BYTES}: use a shorter directory"
        )
    # Without "..", which would have another meaning after a symbolic link, parts are only dropped.
    return "/" + "/".join(part for part in given.split("/") if part not in ("", "."))
