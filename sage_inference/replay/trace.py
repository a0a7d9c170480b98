"""Traces: CSV files of arrivals and sizes, one request a line."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from sage_inference.replay.jobs import Job

BLOCK_TOKENS = 512


class TraceError(Exception):
    """A file that is no trace; says where and why."""


def read_trace(path: Path, speed: float = 1.0) -> list[Job]:
    """The jobs of a CSV file (or one packed with gzip), arriving ``speed`` times as fast.

    Columns ``t_ms``, ``in_tokens``, ``out_tokens``, and where known ``blocks``: ids of the prompt's blocks of
    512 tokens, consecutive runs written ``a-b``, separated by spaces. Raises ``TraceError``.
    """
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    rows = csv.DictReader(io.StringIO(text))
    missing = {"t_ms", "in_tokens", "out_tokens"} - set(rows.fieldnames or ())
    if missing:
        raise TraceError(f"{path}: no column {', '.join(sorted(missing))} in the first line")
    jobs = []
    for row in rows:
        try:
            jobs.append(_job(row, speed))
        except (TypeError, ValueError):
            raise TraceError(f"{path}:{rows.line_num}: a number is needed in each column") from None
    return jobs


def _job(row: dict[str, str], speed: float) -> Job:
    prompt = int(row["in_tokens"])
    blocks = tuple(_ids(row.get("blocks") or ""))[: prompt // BLOCK_TOKENS]
    return Job(int(row["t_ms"]) / speed, max(1, prompt), max(1, int(row["out_tokens"])), blocks)


def _ids(runs: str) -> Iterator[int]:
    for run in runs.split():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)
