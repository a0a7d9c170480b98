"""``outage``: an engine goes under load and comes back; who notices, and how soon it is used again."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace

from tests.bench.outage.engines import How
from tests.bench.outage.phases import Phase, phases, rows
from tests.bench.outage.scene import Shape, calm, outage

HELP = "an engine of four is killed, hangs or drains under load, and comes back"


def configure(parser: argparse.ArgumentParser) -> None:
    default = Shape()
    parser.add_argument("--how", action="append", choices=list(How), help="default: all of them in turn")
    parser.add_argument("--seconds", type=float, default=default.calm_s, help="of each phase; default 20")
    parser.add_argument("--down", type=float, help="seconds for which it is gone; default: as --seconds")
    parser.add_argument("--rate", type=float, default=default.per_s, help="requests a second; default 20")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    seconds, down = arguments.seconds, arguments.down or arguments.seconds
    shape = Shape(seconds, down, seconds, arguments.rate)
    print(
        "| | phase | requests | cut | failed | TTFT p50 ms | p99 | most |\n|---|---|---|---|---|---|---|---|"
    )
    reference = asyncio.run(calm(replace(shape, down_s=min(down, 30.0))))
    _show("three engines", phases(reference))
    judged = []
    for how in map(How, arguments.how or How):
        scene = asyncio.run(outage(how, shape))
        _show(how, phases(scene))
        judged += [(how, row) for row in rows(how, scene, reference)]
    print("\n| | what must hold | figure | at most | |\n|---|---|---|---|---|")
    for how, row in judged:
        held = "held" if row.holds else "**NOT HELD**"
        print(f"| {how} | {row.claim} | {row.figure:.4g} | {row.limit:g} | {held} |")
    return 0 if all(row.holds for _, row in judged) else 1


def _show(name: str, shown: list[Phase]) -> None:
    for phase in shown:
        times = (phase.ttft_p50_ms, phase.ttft_p99_ms, phase.ttft_max_ms)
        cells = " | ".join(f"{value:.1f}" for value in times)
        print(
            f"| {name} | {phase.name} | {phase.requests} | {phase.cut} | {phase.failed} | {cells} |",
            flush=True,
        )
