"""Reads traces: CSV of arrivals and sizes, one request a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from sage_inference.replay.jobs import Job, WorkloadError
from sage_inference.replay.recording import ReplayWorkload

BLOCK_TOKENS = 512


def parse(text: str, name: str) -> ReplayWorkload:
    """The workload in a CSV with the columns ``t_ms``, ``in_tokens``, ``out_tokens`` and optionally ``blocks``.

    ``blocks`` are ids of the prompt's blocks of 512 tokens, separated by spaces; ``a-b`` is a run of ids.
    Raises ``WorkloadError``.
    """
    rows = csv.DictReader(io.StringIO(text))
    missing = {"t_ms", "in_tokens", "out_tokens"} - set(rows.fieldnames or ())
    if missing:
        raise WorkloadError(f"{name}:1: no column {', '.join(sorted(missing))}; a trace needs it")
    jobs = []
    for row in rows:
        try:
            jobs.append(_job(row))
        except (TypeError, ValueError):
            raise WorkloadError(f"{name}:{rows.line_num}: a value is not a number") from None
    return ReplayWorkload(jobs, BLOCK_TOKENS)


def _job(row: dict[str, str]) -> Job:
    prompt = int(row["in_tokens"])
    blocks = tuple(_ids(row.get("blocks") or ""))[: prompt // BLOCK_TOKENS]
    return Job(float(row["t_ms"]), max(1, prompt), max(1, int(row["out_tokens"])), blocks)


def _ids(runs: str) -> Iterator[int]:
    for run in runs.split():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)
