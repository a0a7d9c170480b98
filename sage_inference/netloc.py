"""Host and port as URLs have them. Every room may use it, and it loads nothing."""

from __future__ import annotations

_LOOPBACK_OF = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
ALL_ADDRESSES = frozenset(_LOOPBACK_OF)  # hosts that stand for every address of this machine


def netloc(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL, IPv6 in brackets."""
    bare = host.removeprefix("[").removesuffix("]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def origin(host: str, port: int, tls: bool = False) -> str:
    """The address ``http://host:port``, or with ``tls`` ``https://host:port``."""
    return f"{'https' if tls else 'http'}://{netloc(host, port)}"


def reachable(host: str) -> str:
    """An address at which this machine reaches a listener on ``host``, which may stand for all addresses."""
    bare = host.removeprefix("[").removesuffix("]")
    return _LOOPBACK_OF.get(bare, bare)
