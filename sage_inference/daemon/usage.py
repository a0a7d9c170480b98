"""Reads the usage: from the running gateway, or from the store where none runs."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from sage_inference.config.paths import Paths
from sage_inference.daemon import admin, control
from sage_inference.daemon.errors import DaemonError, NotRunning, Unresponsive
from sage_inference.usage.columns import UsageError

_WITHIN_S = 15.0  # a store of many hours and users takes seconds to read


class NoUsage(DaemonError):  # noqa: N818 - a state rather than an error
    """The usage cannot be read, or the question has no meaning."""

    code = "no_usage"


def usage(paths: Paths, by: str, since: str) -> dict[str, Any]:
    """The document of ``/admin/usage``, up to the last request that ended. Raises ``NoUsage``, ``Unresponsive``.

    Without a gateway, ``kept_days`` is None.
    """
    try:
        info = control.running(paths)
    except NotRunning:
        return _stored(paths, by, since)
    try:
        path = "/admin/usage?" + urlencode({"by": by, "since": since})
        status, document = admin.ask(info, "GET", path, timeout_s=_WITHIN_S)
        if status == 200:
            return dict(document)
        problem = str(document["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unresponsive(f"pid {info.pid} did not answer: {error}") from None
    raise NoUsage(problem)


def _stored(paths: Paths, by: str, since: str) -> dict[str, Any]:
    from sage_inference.usage.document import usage_document  # imports SQLite
    from sage_inference.usage.report import BadQuery

    try:
        return {**usage_document(paths.usage_file, by, since), "kept_days": None}
    except (BadQuery, UsageError) as error:
        raise NoUsage(str(error)) from None
