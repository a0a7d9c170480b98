"""The models of the running gateway, as its admin route lists them."""

from __future__ import annotations

from typing import Any

from sage_inference.daemon import admin
from sage_inference.daemon.errors import DaemonError, Unresponsive
from sage_inference.daemon.pidfile import PidInfo

_ROUTE = "/admin/models"
_CAPABILITIES = {"chat": "chat", "embedding": "embed"}


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


def suits(model: dict[str, Any], kind: str) -> bool | None:
    """Whether a model of the document does ``chat`` or ``embedding``. None if nobody knows.

    A model may do both, although its kind names one.
    """
    if _CAPABILITIES[kind] in (model.get("capabilities") or ()):
        return True
    return None if model["kind"] is None else bool(model["kind"] == kind)
