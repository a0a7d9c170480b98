"""``python -m tests.bench traces [CASE …]``: policies on traces, by the product's own replay."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from sage_inference.replay.report import Percentiles
from tests.bench.traces.cases import CASES
from tests.bench.traces.contest import Result

HELP = "what the policies are worth on traces and made-up crowds, before modelled engines"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; default all")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")


def run(arguments: argparse.Namespace) -> int:
    """0 when every bound held."""
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        print(f"error: no case {unknown[0]}; there are {', '.join(CASES)}")
        return 2
    all_held = True
    for name in arguments.cases or CASES:
        result = CASES[name][0](1.0)
        print(json.dumps(asdict(result)) if arguments.json else text(result), flush=True)
        all_held = all_held and all(bound.held for bound in result.bounds)
    return 0 if all_held else 1


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
        lines.append(
            f"| {row.name} | {_marks(summary.ttft_ms)} | {_marks(summary.tpot_ms)} | {100 * summary.goodput:.1f} "
            f"| {100 * summary.hit_ratio:.1f} | {summary.refused:,} of {summary.requests:,} | {row.note} |"
        )
    lines.append("")
    for bound in result.bounds:
        sign = "≤" if bound.at_most else "≥"
        verdict = "held" if bound.held else "**missed**"
        lines.append(f"- {bound.what}: {bound.value:.3g} ({sign} {bound.limit:g}: {verdict})")
    return "\n".join([*lines, ""])


def _marks(values: Percentiles) -> str:
    return " / ".join("-" if v is None else f"{v:,.0f}" for v in (values.p50, values.p90, values.p99))
