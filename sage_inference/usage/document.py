"""The usage of a time, as a document."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sage_inference.usage.columns import HOUR_S
from sage_inference.usage.ledger import UsageLedger
from sage_inference.usage.report import hour_of, report


def usage_document(path: Path, by: str, since: str, now: datetime | None = None) -> dict[str, Any]:
    """The totals of a store ``by`` one of ``columns.BY``. Raises ``report.BadQuery`` and ``UsageError``."""
    now = now or datetime.now().astimezone()
    begin, end = hour_of(since, now), int(now.timestamp() // HOUR_S) + 1
    rows, total = report(UsageLedger(path).rows(begin, end), by)
    return {
        "schema": 1,
        "by": by,
        "since": datetime.fromtimestamp(begin * HOUR_S).astimezone().isoformat(timespec="seconds"),
        "until": now.isoformat(timespec="seconds"),
        "rows": rows,
        "total": total,
    }
