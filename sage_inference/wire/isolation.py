"""Unexpected exceptions in the gateway: each is logged with its traceback, and ends one request only.

Functions that work for one request on behalf of another catch exceptions and report them here: the scheduler that
places a request, an engine's connection that passes on an answer, a timer, a call that returns vectors.
"""

from __future__ import annotations

import logging

log = logging.getLogger("sage_inference.gateway")


def report(error: BaseException, what: str) -> None:
    """Log an exception that nobody expected. ``what`` failed."""
    log.error("%s failed: %s: %s", what, type(error).__name__, error, exc_info=error)


def report_of(request_id: bytes, error: BaseException, at_engine: bytes = b"") -> None:
    """Log an exception of one request. ``at_engine`` is the id that the request has at its engine."""
    name = request_id.decode("latin-1")
    other = f" ({at_engine.decode('latin-1')} at its engine)" if at_engine not in (b"", request_id) else ""
    report(error, f"request {name}{other}")
