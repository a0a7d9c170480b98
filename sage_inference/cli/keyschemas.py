"""The answers of ``keys``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    _COUNT_OR_NULL,
    _FLAG,
    _FLAG_OR_NULL,
    _NUMBER,
    _TEXT,
    _TEXT_OR_NULL,
    _answer,
    _list,
    _object,
)

_LIMITS = _object(
    requests_per_minute=_COUNT_OR_NULL,
    tokens_per_minute=_COUNT_OR_NULL,
    tokens_per_day=_COUNT_OR_NULL,
    concurrent_requests=_COUNT_OR_NULL,
    models=_list(_TEXT),
)
# ``source``: hash, env:NAME, file:PATH or literal; null for a key of the gateway's command line.
_KEY = _object(
    name=_TEXT,
    id=_TEXT_OR_NULL,
    source=_TEXT_OR_NULL,
    priority=_TEXT_OR_NULL,
    weight=_NUMBER,
    limits=_LIMITS,
    applied=_FLAG_OR_NULL,
    requests_today=_COUNT_OR_NULL,
    tokens_today=_COUNT_OR_NULL,
    requests_last_minute=_COUNT_OR_NULL,
    tokens_last_minute=_COUNT_OR_NULL,
    tokens_reserved=_COUNT_OR_NULL,
    running=_COUNT_OR_NULL,
    refused=_COUNT_OR_NULL,
)

KEYS_LIST = _answer(config_path=_TEXT, running=_FLAG, keys=_list(_KEY))
KEYS_ADD = _answer(name=_TEXT, id=_TEXT, key=_TEXT, config_path=_TEXT, applied=_FLAG_OR_NULL)
KEYS_REVOKE = _answer(
    revoked=_list(_object(name=_TEXT, id=_TEXT_OR_NULL)), config_path=_TEXT, applied=_FLAG_OR_NULL
)
