"""The output of ``--json``, as JSON Schema (draft 2020-12).

A promise to scripts: keys are only ever added while ``schema`` is 1, so none of these forbids others.
"""

from __future__ import annotations

from sage_inference.cli.benchschemas import BENCH, REPLAY
from sage_inference.cli.clusterschemas import CLUSTER, CLUSTER_DOWN, CLUSTER_SCALE
from sage_inference.cli.keyschemas import KEYS_ADD, KEYS_LIST, KEYS_REVOKE
from sage_inference.cli.liveschemas import TOP
from sage_inference.cli.requestschema import REQUEST_LINE
from sage_inference.cli.schemaparts import (
    _COUNT,
    _COUNT_OR_NULL,
    _FLAG,
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
from sage_inference.cli.setupschemas import DOCTOR, SERVICE, SERVICE_REMOVED
from sage_inference.cli.statusschemas import ENGINE, GATEWAY_STATE, STATUS
from sage_inference.cli.usageschema import USAGE

ERROR = _answer(error=_object(code=_TEXT, message=_TEXT, hint=_TEXT_OR_NULL))

ONE_ENGINE = _answer(engine=ENGINE)

PS = _answer(gateway=GATEWAY_STATE, engines=_list(ENGINE))

RELOAD = _answer(
    added=_list(_TEXT),
    removed=_list(_TEXT),
    changed=_list(_TEXT),
    settings=_list(_TEXT),
    needs_restart=_list(_TEXT),
    address=_TEXT_OR_NULL,
)

# One record per line. A log line that is no record has its text as message, and null for the rest.
LOG_RECORD = _answer(time=_TEXT_OR_NULL, level=_TEXT_OR_NULL, message=_TEXT)

CONFIG_SHOW = _answer(config_path=_TEXT, config={"type": "object"})
CONFIG_DEFAULTS = _answer(
    keys=_list(_object(key=_TEXT, type=_TEXT, default={}, doc=_TEXT, choices=_or_null(_list(_TEXT))))
)
CONFIG_GET = _answer(key=_TEXT, value={})
CONFIG_VALIDATE = _answer(valid={"const": True}, config_path=_TEXT, exists=_FLAG)

CANDIDATE = _object(
    instance=_TEXT,
    chosen=_FLAG,
    cost_ms=_NUMBER,
    backlog_ms=_NUMBER,
    prompt_ms=_NUMBER,
    first_byte_ms=_NUMBER,
    cached_tokens=_COUNT,
    running=_COUNT,
    pending_tokens=_COUNT,
    ms_per_token=_NUMBER,
)
# Also a line of scheduling.record_file. Times of day are milliseconds since 1970.
ATTEMPT = _object(
    request_id=_TEXT,
    caller_request_id=_TEXT_OR_NULL,
    request_type=_TEXT,
    route=_TEXT,
    model=_TEXT,
    priority={"enum": [0, 1, 2, 3, 4]},
    tenant=_TEXT,
    key=_TEXT,
    deadline_ms=_NUMBER_OR_NULL,
    slo=_object(ttft_ms=_NUMBER, ttft_from=_TEXT, ttft_times=_NUMBER, tpot_ms=_NUMBER, tpot_from=_TEXT),
    streams=_FLAG,
    choices=_COUNT,
    connection=_COUNT_OR_NULL,
    leg={"enum": ["prefill", "decode", None]},
    arrived_ms=_NUMBER,
    waited_ms=_NUMBER,
    instance=_TEXT,
    engine=_object(
        kv_tokens=_COUNT,
        window_tokens=_COUNT_OR_NULL,
        max_concurrent_requests=_COUNT_OR_NULL,
        gpu=_TEXT_OR_NULL,
    ),
    policy=_TEXT_OR_NULL,
    reason=_TEXT,
    candidates=_list(CANDIDATE),
    in_one_piece=_FLAG,
    predicted_prompt_ms=_NUMBER_OR_NULL,
    predicted_first_byte_ms=_NUMBER_OR_NULL,
    first_byte_ms=_NUMBER_OR_NULL,
    duration_ms=_NUMBER_OR_NULL,
    outcome={
        "enum": ["done", "aborted", "failed", "cut", "cancelled", "retried", "prefilled", "ended", None]
    },
    status=_COUNT_OR_NULL,
    prompt_tokens=_COUNT,
    prompt_tokens_estimated=_FLAG,
    completion_tokens=_COUNT_OR_NULL,
    cached_tokens=_COUNT_OR_NULL,
    blocks=_list({"type": "integer"}),
    block_tokens=_NUMBER,
)
EXPLAIN = _answer(request_id=_TEXT, attempts=_list(ATTEMPT))

MODELS = _answer(
    models=_list(
        _object(
            name=_TEXT,
            kind={"enum": ["chat", "embedding", "rerank", "transcription", "speech", "classification", None]},
            capabilities=_list(_TEXT),
            state=_TEXT,
            ready=_COUNT,
            instances=_COUNT,
            context_tokens=_COUNT_OR_NULL,
            aliases=_list(_TEXT),
            engines=_list(_TEXT),
            simulated=_FLAG,
        )
    ),
    defaults=_object(chat=_TEXT_OR_NULL, embedding=_TEXT_OR_NULL),
)
CHAT = _answer(
    model=_TEXT,
    content=_TEXT,
    reasoning=_TEXT_OR_NULL,
    finish_reason=_TEXT_OR_NULL,
    prompt_tokens=_COUNT_OR_NULL,
    completion_tokens=_COUNT_OR_NULL,
    ttft_ms=_NUMBER_OR_NULL,
    duration_ms=_NUMBER,
    tokens_per_s=_NUMBER_OR_NULL,
    instance=_TEXT_OR_NULL,
    request_id=_TEXT_OR_NULL,
)

EMBED = _answer(
    model=_TEXT,
    dimensions=_COUNT_OR_NULL,
    prompt_tokens=_COUNT_OR_NULL,
    embeddings=_list(_list({"type": ["number", "null"]})),
)
UI = _answer(url=_TEXT, expires_s=_NUMBER)

# The schema of each command line's answer.
ANSWERS: dict[str, Schema] = {
    "chat": CHAT,
    "models": MODELS,
    "embed": EMBED,
    "status": STATUS,
    "top": TOP,
    "ps": PS,
    "load": ONE_ENGINE,
    "unload": ONE_ENGINE,
    "engine restart": ONE_ENGINE,
    "doctor": DOCTOR,
    "service install": SERVICE,
    "service status": SERVICE,
    "service uninstall": SERVICE_REMOVED,
    "reload": RELOAD,
    "logs": LOG_RECORD,
    "bench": BENCH,
    "config": CONFIG_SHOW,
    "config show": CONFIG_SHOW,
    "config show --defaults": CONFIG_DEFAULTS,
    "config get": CONFIG_GET,
    "config validate": CONFIG_VALIDATE,
    "explain": EXPLAIN,
    "requests": REQUEST_LINE,
    "ui": UI,
    "usage": USAGE,
    "keys add": KEYS_ADD,
    "keys list": KEYS_LIST,
    "keys revoke": KEYS_REVOKE,
    "replay": REPLAY,
    "cluster up": CLUSTER,
    "cluster status": CLUSTER,
    "cluster scale": CLUSTER_SCALE,
    "cluster down": CLUSTER_DOWN,
}
