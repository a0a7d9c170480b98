"""``python -m tests.bench autoscale``: a fleet that follows demand for a day, beside fixed ones and perfect knowledge."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from typing import Any

from sage_inference.replay.jobs import Job
from sage_inference.replay.report import ReplaySummary, summarize
from sage_inference.replay.slo import ReplaySlo
from tests.bench.many.day import (
    LEAST,
    MOST,
    SLO,
    Played,
    a_day,
    play_by_demand,
    play_fixed,
    play_known,
)
from tests.bench.traces.contest import Bound

HELP = "replicas that follow demand through a day, before modelled engines"
FIRST_HOUR = 6  # the day begins with its rise
STARTS_S = (60, 180, 300)

Way = Callable[[Sequence[Job]], Played]
# Of the fleet that always has the most replicas. Points of goodput are those of requests with both times in their SLO.
LOST_POINTS, GPU_HOURS = 2.0, 0.7
CHANGES_AN_HOUR = 6.0


def ways(starts_s: Sequence[int]) -> dict[str, Way]:
    """By the names that the table gives them."""
    return {
        f"always {LEAST}": partial(play_fixed, replicas=LEAST),
        f"always {MOST}": partial(play_fixed, replicas=MOST),
        **{f"known ahead, start {s} s": partial(play_known, start_s=s) for s in starts_s},
        **{f"by demand, start {s} s": partial(play_by_demand, start_s=s) for s in starts_s},
    }


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--changes", action="store_true", help="also each change and its reason")
    parser.add_argument(
        "--part",
        type=float,
        default=1.0,
        help=f"of the day, which begins at {FIRST_HOUR}; in whole hours, for a quick look",
    )
    parser.add_argument(
        "--start", type=int, action="append", metavar="S", help="seconds of a start; default 60, 180 and 300"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="days at once")


def run(arguments: argparse.Namespace) -> int:
    """0 when every bound held."""
    hours, starts_s = max(1, round(24 * arguments.part)), arguments.start or STARTS_S
    played = ways(starts_s)
    rows = dict(zip(played, _played(list(played.values()), hours, arguments.jobs), strict=True))
    bounds = _bounds(rows, hours, starts_s)
    print(json.dumps(_document(rows, bounds)) if arguments.json else text(rows, bounds, arguments.changes))
    return 0 if all(bound.held for bound in bounds) else 1


Row = tuple[ReplaySummary, float, list[tuple[float, int, str]]]


def _played(played: list[Way], hours: int, jobs: int) -> Iterator[Row]:
    if jobs <= 1:
        yield from map(_play, played, repeat(hours))
        return
    with ProcessPoolExecutor(min(jobs, len(played)), get_context("spawn")) as pool:
        yield from pool.map(_play, played, repeat(hours))


def _play(way: Way, hours: int) -> Row:
    played = way(a_day([(FIRST_HOUR + hour) % 24 for hour in range(hours)]))
    return summarize(played.outcomes, ReplaySlo(SLO)), played.gpu_hours, played.changes


def _bounds(rows: dict[str, Row], hours: int, starts_s: Sequence[int]) -> list[Bound]:
    most, most_hours, _ = rows[f"always {MOST}"]
    bounds = []
    for start_s in starts_s:
        name = f"by demand, start {start_s} s"
        ours, gpu_hours, changes = rows[name]
        lost = 100 * (most.goodput - ours.goodput)
        bounds += [
            Bound(f"{name}: goodput lost to always {MOST}, points", lost, LOST_POINTS, True),
            Bound(f"{name}: GPU hours / always {MOST}", gpu_hours / most_hours, GPU_HOURS, True),
            Bound(f"{name}: changes an hour", len(changes) / hours, CHANGES_AN_HOUR, True),
        ]
    return bounds


def _document(rows: dict[str, Row], bounds: list[Bound]) -> dict[str, Any]:
    return {
        "simulated": True,
        "rows": [
            {
                "name": name,
                "summary": asdict(summary),
                "gpu_hours": gpu_hours,
                "changes": [dict(zip(("at_s", "replicas", "reason"), each, strict=True)) for each in changes],
            }
            for name, (summary, gpu_hours, changes) in rows.items()
        ],
        "bounds": [{**asdict(bound), "held": bound.held} for bound in bounds],
    }


def text(rows: dict[str, Row], bounds: list[Bound], with_changes: bool) -> str:
    lines = [
        "All figures are simulated.",
        "",
        "| replicas | goodput % | TTFT p50 / p99 s | TPOT p50 / p99 ms | refused | GPU hours | changes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (summary, gpu_hours, changes) in rows.items():
        ttft = _marks(summary.ttft_ms.p50, summary.ttft_ms.p99, 1000)
        tpot = _marks(summary.tpot_ms.p50, summary.tpot_ms.p99, 1)
        lines.append(
            f"| {name} | {100 * summary.goodput:.1f} | {ttft} | {tpot} "
            f"| {summary.refused:,} of {summary.requests:,} | {gpu_hours:.1f} | {len(changes)} |"
        )
    lines.append("")
    for bound in bounds:
        verdict = "held" if bound.held else "**missed**"
        lines.append(f"- {bound.what}: {bound.value:.3g} (≤ {bound.limit:g}: {verdict})")
    if with_changes:
        for name, (_, _, changes) in rows.items():
            lines += ["", name, *(f"  {at_s / 3600:6.2f} h  {n}  {why}" for at_s, n, why in changes)]
    return "\n".join(lines)


def _marks(p50: float | None, p99: float | None, unit: float) -> str:
    return " / ".join("-" if each is None else f"{each / unit:,.3g}" for each in (p50, p99))
