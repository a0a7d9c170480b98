"""Fetches the running gateway's decision on a request."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, control
from sage_inference.daemon.errors import DaemonError, Unresponsive


class NoDecision(DaemonError):  # noqa: N818 - a state rather than an error
    """The gateway has no decision on that request, or has it no longer."""

    code = "decision_not_found"


def explain(paths: Paths, request_id: str, *, timeout_s: float = 5.0) -> dict[str, Any]:
    """The gateway's document. Raises ``NoDecision``, ``NotRunning``, ``Unresponsive``."""
    info = control.running(paths)
    try:
        path = f"/admin/decisions/{quote(request_id, safe='')}"
        status, document = admin.ask(info, "GET", path, timeout_s=timeout_s)
        if status == 200:
            return dict(document)
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}") from None
    raise NoDecision(problem, "each answer names its request in x-request-id")
