"""When a request may be sent once more, because the engine has done nothing with it."""

from __future__ import annotations

from sage_inference.engines.connection import Broken, EngineConnection

# Statuses of engines and proxies that refused a request: too busy, or nothing there to serve it.
REFUSED_STATUSES = frozenset({429, 502, 503})


def was_stale(how: Broken, connection: EngineConnection | None, *, fresh: bool, begun: bool) -> bool:
    """Whether an idle connection was closed while the request was on its way, so that the engine never saw it.

    Such a request is sent again to the same instance, on a connection made for it (``fresh``): that is neither the
    engine's fault nor a retry. ``begun``: whether so much of an answer came that the engine must have seen the
    request.
    """
    reused = connection is not None and connection.served > 0 and not fresh
    return how is Broken.CLOSED and reused and not begun
