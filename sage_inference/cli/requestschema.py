"""A row of ``GET /admin/requests`` and a line of ``requests --json``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    _COUNT,
    _COUNT_OR_NULL,
    _FLAG,
    _NUMBER,
    _NUMBER_OR_NULL,
    _TEXT,
    _answer,
    _object,
)

# One attempt of a request. A request that was sent again has a row for each attempt. Times count from its arrival.
REQUEST = _object(
    number=_COUNT_OR_NULL,
    request_id=_TEXT,
    arrived_ms=_COUNT,
    route=_TEXT,
    model=_TEXT,
    priority={"enum": ["critical", "high", "normal", "low", "background"]},
    tenant=_TEXT,
    streams=_FLAG,
    leg={"enum": ["prefill", "decode", None]},
    instance=_TEXT,
    why=_TEXT,
    queue_ms=_NUMBER,
    ttft_ms=_NUMBER_OR_NULL,
    total_ms=_NUMBER_OR_NULL,
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT_OR_NULL,
    cached_tokens=_COUNT_OR_NULL,
    tokens_estimated=_FLAG,
    tokens_per_s=_NUMBER_OR_NULL,
    outcome={
        "enum": [
            *("done", "aborted", "failed", "cut", "cancelled", "retried", "prefilled", "ended", "refused"),
            None,
        ]
    },
    status=_COUNT_OR_NULL,
)
REQUEST_LINE = _answer(**REQUEST["properties"])
