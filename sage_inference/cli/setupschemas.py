"""The answers of ``doctor`` and ``service``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import (
    _COUNT_OR_NULL,
    _FLAG,
    _FLAG_OR_NULL,
    _TEXT,
    _TEXT_OR_NULL,
    _answer,
    _list,
    _object,
)

DOCTOR = _answer(
    healthy=_FLAG,
    checks=_list(
        _object(name=_TEXT, verdict={"enum": ["ok", "warn", "fail"]}, text=_TEXT, hint=_TEXT_OR_NULL)
    ),
)

SERVICE = _answer(
    installed=_FLAG,
    system=_FLAG,
    unit_path=_TEXT,
    edited=_FLAG,
    drop_ins=_list(_TEXT),
    current=_FLAG_OR_NULL,
    confined=_FLAG_OR_NULL,
    enabled=_FLAG_OR_NULL,
    active=_TEXT_OR_NULL,
    sub_state=_TEXT_OR_NULL,
    result=_TEXT_OR_NULL,
    pid=_COUNT_OR_NULL,
    restarts=_COUNT_OR_NULL,
    environment_file=_TEXT,
    linger=_FLAG_OR_NULL,
)
SERVICE_REMOVED = _answer(removed=_FLAG, unit_path=_TEXT, kept=_list(_TEXT))
