"""Rows of ``GET /admin/requests`` as lines of a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import typer

from sage_inference.cli.growing_table import GrowingTable, LogColumn
from sage_inference.cli.numbers import count, duration

Row = dict[str, Any]

_COLUMNS = (
    LogColumn("TIME", 0, 8, 19),
    LogColumn("ID", 8, 24, 256),
    LogColumn("ROUTE", 9, 20, 14),
    LogColumn("MODEL", 2, 12, 12),
    LogColumn("KEY", 10, 6, 8),
    LogColumn("INSTANCE", 3, 10, 14),
    LogColumn("QUEUE", 5, 7, 11, is_number=True),
    LogColumn("TTFT", 4, 7, 11, is_number=True),
    LogColumn("TOK/S", 7, 5, 8, is_number=True),
    LogColumn("TOTAL", 6, 7, 11, is_number=True),
    LogColumn("STATUS", 1, 6, 11),
    LogColumn("WHY", 11, 12, 12),
)
_STATUS = [column.header for column in _COLUMNS].index("STATUS")
_GOOD = ("done", "prefilled")
_COLOURS = {"cancelled": "yellow", "retried": "yellow"}


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """``model``, ``key`` and ``instance`` are names, in which a * stands for any letters. None fits all."""

    model: str | None = None
    key: str | None = None
    instance: str | None = None
    only_failed: bool = False

    def fits(self, row: Row) -> bool:
        return (
            _is_called(row["model"], self.model)
            and _is_called(row["tenant"], self.key)
            and _is_called(row["instance"], self.instance)
            and (not self.only_failed or has_failed(row))
        )


def has_failed(row: Row) -> bool:
    """Whether the caller, or an attempt, got an error or a broken answer. A caller that left is no failure."""
    return row["outcome"] not in (*_GOOD, "cancelled") or (row["status"] or 0) >= 400


class RequestLog:
    """Makes lines of rows that come in pieces. A terminal gets the time of day, and a line where a day begins."""

    def __init__(self) -> None:
        self._table = GrowingTable(_COLUMNS)
        self._day = time.strftime("%Y-%m-%d")

    @property
    def left_out(self) -> list[str]:
        return self._table.left_out

    def lines(self, rows: Sequence[Row], width: int | None) -> list[str]:
        """``width`` is None without a terminal."""
        made: list[str] = []
        at = 0
        while at < len(rows):
            day, end = _day(rows[at]), at + 1
            while end < len(rows) and _day(rows[end]) == day:
                end += 1
            if width is not None and day != self._day:
                made.append(typer.style(day, dim=True))
            self._day = day
            made += self._of_a_day(rows[at:end], width)
            at = end
        return made

    def _of_a_day(self, rows: Sequence[Row], width: int | None) -> list[str]:
        cells = [_cells(row, is_dated=width is None) for row in rows]
        return self._table.lines(cells, width, [_colour(row) for row in rows], _STATUS)


def _is_called(name: str, wanted: str | None) -> bool:
    if wanted is None:
        return True
    pattern = wanted.lower().replace("[", "[[]").replace("?", "[?]")
    return fnmatchcase(name.lower(), pattern)


def _cells(row: Row, *, is_dated: bool) -> list[str]:
    ended = time.localtime(_ended_s(row))
    return [
        time.strftime("%Y-%m-%d %H:%M:%S" if is_dated else "%H:%M:%S", ended),
        row["request_id"],
        row["route"],
        row["model"] or "-",
        row["tenant"] or "-",
        row["instance"] or "-",
        _span(row["queue_ms"]),
        _span(row["ttft_ms"]),
        _pace(row["tokens_per_s"]),
        _span(row["total_ms"]),
        _status(row),
        row["why"],
    ]


def _ended_s(row: Row) -> float:
    return float(row["arrived_ms"] + (row["total_ms"] or 0)) / 1000


def _day(row: Row) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(_ended_s(row)))


def _span(ms: float | None) -> str:
    return "-" if ms is None else duration(ms / 1000)


def _pace(tokens_per_s: float | None) -> str:
    if tokens_per_s is None:
        return "-"
    return f"{tokens_per_s:.3g}" if tokens_per_s < 999.5 else count(tokens_per_s)


def _status(row: Row) -> str:
    """``200``, ``cancelled``, ``retried 503``: the outcome if it is not that of most requests, and the status."""
    words = [] if row["outcome"] in ("done", None) else [row["outcome"]]
    # Of an answer that ended early the status is that of its begin, which shows nothing.
    if row["status"] is not None and (not words or row["status"] != 200):
        words.append(str(row["status"]))
    return " ".join(words) or "-"


def _colour(row: Row) -> str | None:
    if row["outcome"] in _COLOURS:
        return _COLOURS[row["outcome"]]
    return "red" if has_failed(row) else None
