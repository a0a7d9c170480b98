"""The models of the running gateway, as its admin route lists them."""

from __future__ import annotations

from typing import Any

from sage_inference.daemon import admin
from sage_inference.daemon.errors import DaemonError, Unresponsive
from sage_inference.daemon.pidfile import PidInfo

_ROUTE = "/admin/models"


def models(info: PidInfo, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """The document, with ``models`` and ``defaults``. Raises ``Unresponsive``, and ``DaemonError`` for an older gateway."""
    try:
        status, document = admin.ask(info, "GET", _ROUTE, timeout_s=timeout_s)
        if status == 200:
            return dict(document)
    except (OSError, ValueError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}", "sage inference status") from None
    raise DaemonError(
        f"the running gateway (pid {info.pid}, version {info.version}) does not list its models",
        "sage inference restart, after an upgrade",
    )
