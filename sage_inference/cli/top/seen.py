"""The gateway as it was seen last: its newest document, and the last requests that ended."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sage_inference.cli.top.feed import Glance, Outage
from sage_inference.cli.top.rows import Row, ended_row, engine_rows, queue_rows, request_rows

KEPT = 1000  # requests that ended
_TWICE = 200
_NEWS_S = 10.0  # how long a remark on the connection is shown


@dataclass(frozen=True, slots=True)
class Picture:
    """The state at one moment, as a document and as the rows of the tables."""

    document: dict[str, Any]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    outage: str | None = None  # the figures are those of the time before
    news: str | None = None
    has_rates: bool = True


class Seen:
    """Takes what the feed yields, and gives pictures."""

    def __init__(self) -> None:
        self._ended: deque[Row] = deque(maxlen=KEPT)
        self._document: dict[str, Any] | None = None
        self._outage: str | None = None
        self._news, self._news_until = "", 0.0
        self._has_rates = False

    def take(self, found: Glance | Outage, now: float | None = None) -> None:
        """``now``: a monotonic time in seconds."""
        now = time.monotonic() if now is None else now
        if isinstance(found, Outage):
            self._outage = found.reason
            return
        if self._outage is not None and self._document is not None:
            pid = found.document["pid"]
            new = pid != self._document["pid"]
            self._news = f"connected to a new gateway, pid {pid}" if new else "connected again"
            self._news_until = now + _NEWS_S
        self._outage = None
        self._document, self._has_rates = found.document, not found.is_first
        self._add(found.ended)

    def _add(self, rows: list[Row]) -> None:
        # Only the newest rows can come twice: those that ended while the connection was made.
        known = {row["key"] for row in islice(reversed(self._ended), len(rows) + _TWICE)} if rows else set()
        self._ended.extend(row for row in map(ended_row, rows) if row["key"] not in known)

    def picture(self, now: float | None = None) -> Picture | None:
        """None before the first document."""
        if self._document is None:
            return None
        now = time.monotonic() if now is None else now
        document = self._document
        tables = {
            "engines": engine_rows(document, has_rates=self._has_rates),
            "requests": request_rows(document, tuple(self._ended)),
            "queue": queue_rows(document),
        }
        news = self._news if now < self._news_until else None
        return Picture(document, tables, self._outage, news, self._has_rates)
