"""The document of ``status``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    _COUNT,
    _COUNT_OR_NULL,
    _FLAG,
    _FLAG_OR_NULL,
    _NUMBER,
    _NUMBER_OR_NULL,
    _TEXT,
    _TEXT_OR_NULL,
    Schema,
    _answer,
    _list,
    _object,
    _or_null,
)

INSTANCE = _object(
    name=_TEXT,
    url=_TEXT,
    engine={"enum": ["vllm", "tei", "openai", None]},
    kind={"enum": ["llm", "embedding", "reranker", "classifier", "mixed", "prefilling", "decoding", None]},
    models=_list(_TEXT),
    state={"enum": ["starting", "ready", "asleep", "ejected", "draining", "stopped"]},
    simulated=_FLAG,
    found=_FLAG,
    source=_TEXT_OR_NULL,
    node=_TEXT_OR_NULL,
    in_flight=_COUNT,
    queued=_COUNT_OR_NULL,
    ttft_ms=_NUMBER_OR_NULL,
    last_error=_TEXT_OR_NULL,
    gpu={},
)

# An engine that the gateway started. A keeper without a gateway reports "running" and knows no more than its process.
ENGINE = _object(
    name=_TEXT,
    model=_TEXT_OR_NULL,
    engine=_TEXT_OR_NULL,
    kind=_TEXT_OR_NULL,
    state={
        "enum": [
            "off",
            "waiting",
            "starting",
            "ready",
            "draining",
            "stopping",
            "failed",
            "stuck",
            "lost",
            "running",
        ]
    },
    phase={"enum": ["boot", "fetch", "load", "compile", "capture", "warm", None]},
    progress=_NUMBER_OR_NULL,
    detail=_TEXT_OR_NULL,
    since_s=_NUMBER_OR_NULL,
    expected_s=_NUMBER_OR_NULL,
    pid=_COUNT_OR_NULL,
    gpus=_list({}),
    url=_TEXT_OR_NULL,
    restarts=_COUNT_OR_NULL,
    adopted=_FLAG,
    outdated=_FLAG,
    failure=_or_null(_object(message=_TEXT, hint=_TEXT_OR_NULL, permanent=_FLAG, retry_in_s=_NUMBER_OR_NULL)),
    warning=_or_null(_object(message=_TEXT, hint=_TEXT_OR_NULL)),
    in_flight=_COUNT_OR_NULL,
    queued=_COUNT_OR_NULL,
    uptime_s=_NUMBER_OR_NULL,
    memory_mb=_NUMBER_OR_NULL,
    log_file=_TEXT_OR_NULL,
)

EMBEDDINGS = _object(
    requests=_COUNT,
    texts=_COUNT,
    calls=_COUNT,
    texts_per_call=_NUMBER,
    merge_factor=_NUMBER,
    mean_wait_ms=_NUMBER,
    shared_texts=_COUNT,
    cached_texts=_COUNT,
    splits=_COUNT,
    retries=_COUNT,
    in_flight=_COUNT,
    waiting_texts=_COUNT,
    cache_bytes=_COUNT,
    windows=_list(
        _object(
            instance=_TEXT,
            calls_in_flight=_COUNT,
            bulk_calls_in_flight=_COUNT,
            bulk_calls_allowed=_COUNT,
            with_interactive=_FLAG,
            tokens_per_s=_NUMBER_OR_NULL,
        )
    ),
    rules=_object(batching=_FLAG, batch_size=_COUNT, min_batch_size=_COUNT, max_wait_ms=_NUMBER),
)

GATEWAY_STATE: Schema = {
    "enum": ["running", "starting", "draining", "stopping", "stopped", "dead", "unresponsive", "unknown"]
}

SLO = _object(
    models=_or_null(_list(_TEXT)),
    priority={"enum": ["critical", "high", "normal", "low", "background"]},
    ttft_ms=_NUMBER,
    ttft_from=_TEXT,
    ttft_times=_NUMBER,
    tpot_ms=_NUMBER,
    tpot_from=_TEXT,
)

SOURCE = _object(
    kind={"enum": ["ray", "file", "dns"]},
    address=_TEXT,
    state={"enum": ["ok", "stale", "failed"]},
    age_s=_NUMBER_OR_NULL,
    instances=_COUNT,
    nodes=_COUNT_OR_NULL,
    skipped=_list(_TEXT),
    last_error=_TEXT_OR_NULL,
)

STATUS = _answer(
    state=GATEWAY_STATE,
    version=_TEXT_OR_NULL,
    pid=_COUNT_OR_NULL,
    uptime_s=_NUMBER_OR_NULL,
    address=_TEXT_OR_NULL,
    certificate=_or_null(_object(file=_TEXT, sha256=_TEXT, names=_list(_TEXT), valid_until=_TEXT)),
    needs_key=_FLAG_OR_NULL,
    policy=_TEXT_OR_NULL,
    simulated=_FLAG_OR_NULL,
    discover=_FLAG_OR_NULL,
    requests=_or_null(_object(in_flight=_COUNT, queued=_COUNT, total=_COUNT)),
    slos=_or_null(_list(SLO)),
    embeddings=_or_null(EMBEDDINGS),
    tracing=_or_null(
        _object(endpoint=_TEXT, sample=_NUMBER, sent=_COUNT, dropped=_COUNT, problem=_TEXT_OR_NULL)
    ),
    usage=_or_null(
        _object(kept_days=_COUNT, waiting_requests=_COUNT, lost_requests=_COUNT, problem=_TEXT_OR_NULL)
    ),
    instances=_or_null(_list(INSTANCE)),
    engines=_or_null(_list(ENGINE)),
    sources=_or_null(_list(SOURCE)),
    warnings=_or_null(_list(_TEXT)),
    reason=_TEXT_OR_NULL,
    config_path=_TEXT_OR_NULL,
    log_path=_TEXT_OR_NULL,
)
