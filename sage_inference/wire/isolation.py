"""Exceptions of the gateway's own: each is logged with its traceback, and ends one request only.

Every function that works for one request, and that others' work goes through, has a guard of this kind at its top:
the manager placing a request, an engine's connection handing on its answer, a timer, a call handing out vectors.
"""

from __future__ import annotations

import logging

log = logging.getLogger("sage_inference.gateway")


def report(error: BaseException, what: str) -> None:
    """Log an exception that nobody expected. ``what`` failed."""
    log.error("%s failed: %s: %s", what, type(error).__name__, error, exc_info=error)


def report_of(request_id: bytes, error: BaseException, at_engine: bytes = b"") -> None:
    """``at_engine``: the id that the request has at its engine."""
    name = request_id.decode("latin-1")
    other = f" ({at_engine.decode('latin-1')} at its engine)" if at_engine not in (b"", request_id) else ""
    report(error, f"request {name}{other}")
