"""Host and port as URLs have them. Every room may use it, and it loads nothing."""

from __future__ import annotations


def netloc(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL, IPv6 in brackets."""
    bare = host.removeprefix("[").removesuffix("]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
