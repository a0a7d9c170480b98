"""The traffic of the parts: windows of public traces, and a crowd of tenants with long common prefixes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sage_inference.replay.jobs import Job
from tests.bench.traces.workloads import azure, mooncake, prefix_tenants

_LONGEST = 100_000  # tokens of a prompt; the chat engines take 131,072 with the answer


def write_traces(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "crowd.csv", prefix_tenants(100, 20, 200))
    _write(out / "azure.csv", _between(azure(1), 900, 1800))
    _write(out / "mooncake.csv", _between(mooncake(1), 0, 150))


def _between(jobs: Iterable[Job], start_s: float, end_s: float) -> list[Job]:
    return [job for job in jobs if start_s <= job.at_ms / 1000 < end_s and job.prompt <= _LONGEST]


def _write(file: Path, jobs: list[Job]) -> None:
    first = jobs[0].at_ms
    lines = [f"{job.at_ms - first:.0f},{job.prompt},{job.output},{_runs(job.blocks)}" for job in jobs]
    file.write_text("\n".join(["t_ms,in_tokens,out_tokens,blocks", *lines]) + "\n")


def _runs(blocks: Iterable[int]) -> str:
    """Ids as ``1-3 7``."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block - 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return " ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)
