"""Recorded traffic: arrivals of requests, and lengths of prompts and answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sage_inference.bench.errors import BenchError

COLUMNS = ("t_ms", "in_tokens", "out_tokens")


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A request. ``blocks`` are ids of its prompt's 512-token parts. Equal ids mean equal text."""

    t_ms: float
    in_tokens: int
    out_tokens: int
    blocks: tuple[int, ...] = ()


def read(path: Path) -> list[TraceRow]:
    """The rows of a CSV ``t_ms,in_tokens,out_tokens[,blocks]``, ordered by time. Raises ``BenchError`` with the line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(_rows(path, csv.reader(file)))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BenchError(f"trace {path} cannot be read: {reason}") from None
    if not rows:
        raise BenchError(f"trace {path} has no requests")
    return rows


def _rows(path: Path, lines: Iterator[list[str]]) -> Iterator[TraceRow]:
    names = next(lines, [])
    if tuple(names[:3]) != COLUMNS or names[3:] not in ([], ["blocks"]):
        raise BenchError(
            f"{path}:1: the columns are not those of a trace",
            "the first line is t_ms,in_tokens,out_tokens[,blocks]",
        )
    before = 0.0
    for number, cells in enumerate(lines, 2):
        try:
            row = _row(cells)
        except (ValueError, IndexError):
            raise BenchError(f"{path}:{number}: no request: {','.join(cells)[:80]}") from None
        if row.t_ms < before:
            raise BenchError(f"{path}:{number}: t_ms is under the line before", "sort the trace by t_ms")
        before = row.t_ms
        yield row


def _row(cells: list[str]) -> TraceRow:
    row = TraceRow(float(cells[0]), int(cells[1]), int(cells[2]), tuple(_ids("".join(cells[3:4]))))
    if not (0 <= row.t_ms < float("inf") and row.in_tokens > 0 and row.out_tokens > 0):
        raise ValueError
    return row


def _ids(text: str) -> Iterator[int]:
    """The ids in a text: ``3 7-9`` is 3, 7, 8, 9."""
    for part in text.split():
        low, _, high = part.partition("-")
        yield from range(int(low), int(high or low) + 1)
