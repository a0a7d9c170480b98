"""The documents of ``GET /admin/live`` and ``GET /admin/requests``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.requestschema import REQUEST
from sage_inference.cli.schemaparts import (
    _COUNT,
    _COUNT_OR_NULL,
    _FLAG,
    _NUMBER,
    _NUMBER_OR_NULL,
    _TEXT,
    _TEXT_OR_NULL,
    Schema,
    _list,
    _object,
)
from sage_inference.cli.statusschemas import INSTANCE, STATUS

REQUESTS = _object(schema={"const": 1}, last=_COUNT, ended=_COUNT, requests=_list(REQUEST))


def _with(schema: Schema, **properties: Schema) -> Schema:
    """The schema of an object with more properties."""
    return _object(**{**schema["properties"], **properties})


LIVE_INSTANCE = _with(
    INSTANCE,
    queued=_COUNT,
    limit=_COUNT_OR_NULL,
    window_tokens=_COUNT_OR_NULL,
    pending_tokens=_COUNT,
    ttfb_ms=_NUMBER_OR_NULL,
    tpot_ms=_NUMBER_OR_NULL,
    tokens_per_s=_NUMBER,
    requests_per_s=_NUMBER,
    answers=_COUNT,
    drained=_FLAG,
    managed=_TEXT_OR_NULL,
)
QUEUE = _object(
    requests=_COUNT,
    limit=_COUNT,
    bytes=_COUNT,
    bytes_limit=_COUNT,
    held=_COUNT,
    overdue=_COUNT,
    oldest_ms=_NUMBER,
    by_priority=_object(critical=_COUNT, high=_COUNT, normal=_COUNT, low=_COUNT, background=_COUNT),
    by_tenant=_list(_object(tenant=_TEXT, requests=_COUNT)),
    by_model=_list(_object(model=_TEXT, requests=_COUNT)),
)
_of_status = {k: v for k, v in STATUS["properties"].items() if k not in ("reason", "config_path", "log_path")}
# The whole state, once a second.
LIVE = _object(
    **{
        **_of_status,
        "at_ms": _COUNT,
        "policies": {"type": "object"},
        "requests": _object(
            in_flight=_COUNT,
            queued=_COUNT,
            total=_COUNT,
            errors=_COUNT,
            cancelled=_COUNT,
            cut=_COUNT,
            failed_by_engine=_COUNT,
            retried=_COUNT,
        ),
        "rates": _object(
            requests_per_s=_NUMBER, errors_per_s=_NUMBER, prompt_tokens_per_s=_NUMBER, tokens_per_s=_NUMBER
        ),
        "tokens": _object(
            prompt=_COUNT,
            completion=_COUNT,
            cached=_COUNT,
            estimated_prompt=_COUNT,
            estimated_completion=_COUNT,
        ),
        "queue": QUEUE,
        "instances": _list(LIVE_INSTANCE),
        "gpus": _list(
            _object(
                index=_COUNT,
                name=_TEXT,
                memory_used_mb=_COUNT,
                memory_total_mb=_COUNT,
                use_percent=_COUNT_OR_NULL,
            )
        ),
        "running": _list(REQUEST),
        "ended": _COUNT,
    }
)
# A line of ``top --json``. While the gateway cannot be watched, ``live`` is null.
TOP = _object(
    schema={"const": 1},
    connected=_FLAG,
    reason=_TEXT_OR_NULL,
    live={"anyOf": [LIVE, {"type": "null"}]},
    requests_ended=_list(REQUEST),
)
