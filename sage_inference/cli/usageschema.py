"""The output of ``usage --json`` and of ``GET /admin/usage``, as JSON Schema: see ``schemas``."""

from __future__ import annotations

from sage_inference.cli.schemaparts import _COUNT, _COUNT_OR_NULL, _NUMBER, _TEXT, _answer, _list, _object
from sage_inference.usage.columns import BY, MEASURES

_TOTALS = {name: _NUMBER if name == "gpu_seconds" else _COUNT for name in MEASURES}

# Each row also has the key that ``by`` names.
USAGE = _answer(
    by={"enum": list(BY)},
    since=_TEXT,
    until=_TEXT,
    rows=_list(_object(**_TOTALS)),
    total=_object(**_TOTALS),
    kept_days=_COUNT_OR_NULL,
)
