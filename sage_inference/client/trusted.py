"""The servers at ``https://`` that clients trust: trusted authorities vouch for them, or this user's own gateway runs there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sage_inference import trust

if TYPE_CHECKING:
    import ssl

    from sage_inference.daemon.pidfile import PidInfo


def context_for(url: str) -> ssl.SSLContext:
    """The context of connections to ``url``. Raises ``TrustError``."""
    return own_context(url) or trust.context()


def own_context(url: str) -> ssl.SSLContext | None:
    """The context of connections to ``url`` if this user's own gateway is there, None for any other server."""
    # Imported late, because most clients never connect with TLS.
    from sage_inference.daemon.admin import tls_of

    def there() -> PidInfo | None:
        return _own_gateway_at(url)

    info = there()
    return None if info is None else tls_of(info, there)


def _own_gateway_at(url: str) -> PidInfo | None:
    """The running gateway of this user, if it speaks HTTPS at that address."""
    from sage_inference.client.daemon import running_info
    from sage_inference.config.address import is_loopback
    from sage_inference.netloc import reachable

    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    info = running_info(os.environ)
    if isinstance(info, str) or info.certificate is None or info.port != port:
        return None
    here = reachable(info.host)
    return info if host == here or (is_loopback(host) and is_loopback(here)) else None
