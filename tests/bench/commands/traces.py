"""``python -m tests.bench traces [CASE …]``: policies on traces, by the product's own replay."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from multiprocessing import get_context
from typing import Any

from sage_inference.replay.report import Percentiles, ReplaySummary
from tests.bench.traces.baselines import BASELINES
from tests.bench.traces.cases import CASES
from tests.bench.traces.contest import Result

Case = Callable[[float], Result]  # of which a part is played

HELP = "what the policies are worth on traces and made-up crowds, before modelled engines"
OURS = "hybrid"
WAYS = (OURS, "least_loaded, at once", "round_robin, at once", *BASELINES)  # the columns of the summary


def configure(parser: argparse.ArgumentParser) -> None:
    add_case_options(parser, CASES, "the bounds are those of the whole")
    parser.add_argument("--summary", action="store_true", help="one table: each case under each rule")


def add_case_options(parser: argparse.ArgumentParser, cases: Iterable[str], of_part: str) -> None:
    """The options of a command that plays cases. ``of_part``: a remark in the help of ``--part``."""
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(cases)}; default all")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    parser.add_argument(
        "--part",
        type=float,
        default=1.0,
        help=f"of each case, for a quick look; {of_part}",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="cases played at the same time, each in a process of its own; default: one a core",
    )


def names_unknown(arguments: argparse.Namespace, cases: Collection[str]) -> bool:
    """Whether a case is named that there is not. Then an error was printed."""
    unknown = [name for name in arguments.cases if name not in cases]
    if unknown:
        print(f"error: no case {unknown[0]}; there are {', '.join(cases)}")
    return bool(unknown)


def run(arguments: argparse.Namespace) -> int:
    """0 when every bound held."""
    if names_unknown(arguments, CASES):
        return 2
    results = []
    cases = [CASES[name][0] for name in arguments.cases or CASES]
    for result in played(cases, arguments.part, arguments.jobs):
        results.append(result)
        if arguments.json:
            print(json.dumps(document(result)), flush=True)
        elif not arguments.summary:
            print(text(result), flush=True)
    if arguments.summary and not arguments.json:
        print(summary_table(results))
    return 0 if all(bound.held for result in results for bound in result.bounds) else 1


def played(cases: Sequence[Case], part: float, jobs: int) -> Iterator[Result]:
    """In the order of ``cases``. A case's figures do not depend on what else is played."""
    parts = repeat(part, len(cases))
    if jobs <= 1 or len(cases) == 1:
        yield from map(_play, cases, parts)
        return
    with ProcessPoolExecutor(min(jobs, len(cases)), get_context("spawn")) as pool:
        yield from pool.map(_play, cases, parts)


def _play(case: Case, part: float) -> Result:
    result = case(part)
    result.play_others()
    return result


def document(result: Result) -> dict[str, Any]:
    return {
        "workload": result.workload,
        "rows": [asdict(row) for row in result.rows],
        "bounds": [asdict(bound) for bound in result.bounds],
    }


def text(result: Result) -> str:
    """Markdown: a table of the ways, then the bounds."""
    lines = [
        f"### {result.workload}",
        "",
        "| | TTFT p50 / p90 / p99 ms | TPOT p50 / p90 / p99 ms | goodput % | hits % | refused | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result.rows:
        summary = row.summary
        name = f"{row.at}: {row.name}" if row.at else row.name
        lines.append(
            f"| {name} | {_marks(summary.ttft_ms)} | {_marks(summary.tpot_ms)} | {100 * summary.goodput:.1f} "
            f"| {100 * summary.hit_ratio:.1f} | {summary.refused:,} of {summary.requests:,} | {row.note} |"
        )
    lines.append("")
    for bound in result.bounds:
        sign = "≤" if bound.at_most else "≥"
        verdict = "held" if bound.held else "**missed**"
        lines.append(f"- {bound.what}: {bound.value:.3g} ({sign} {bound.limit:g}: {verdict})")
    return "\n".join([*lines, ""])


def summary_table(results: list[Result]) -> str:
    """Markdown: a line for each workload that was played under other rules too, then the bounds that were missed."""
    lines = [
        "Goodput in %, and the TTFT's p50 / p99 in seconds, simulated. Last: the goodput of hybrid over the best of the "
        "others, in points.",
        "",
        f"| | {' | '.join(WAYS)} | over |",
        "|---|" + "---|" * (len(WAYS) + 1),
    ]
    for result in results:
        for at in dict.fromkeys(row.at for row in result.rows):
            found = {row.name: row.summary for row in result.rows if row.at == at and row.name in WAYS}
            others = [each.goodput for name, each in found.items() if name != OURS]
            if OURS in found and others:
                cells = " | ".join(_cell(found.get(name)) for name in WAYS)
                over = 100 * (found[OURS].goodput - max(others))
                name = f"{result.workload}, {at}" if at else result.workload
                lines.append(f"| {name} | {cells} | {over:+.1f} |")
    missed = [(result, bound) for result in results for bound in result.bounds if not bound.held]
    lines += [""] + [
        f"- missed: {result.workload}: {bound.what}: {bound.value:.3g}" for result, bound in missed
    ]
    return "\n".join(lines)


def _cell(summary: ReplaySummary | None) -> str:
    if summary is None:
        return ""
    ttft = summary.ttft_ms
    times = " / ".join("-" if v is None else f"{v / 1000:.3g}" for v in (ttft.p50, ttft.p99))
    return f"{100 * summary.goodput:.1f} ({times})"


def _marks(values: Percentiles) -> str:
    return " / ".join("-" if v is None else f"{v:,.0f}" for v in (values.p50, values.p90, values.p99))
