"""``takeover``: a gateway is killed under load, and its callers go on with a standby."""

from __future__ import annotations

import argparse
import asyncio
import math
from statistics import median

from tests.bench.takeover.scene import Takeover, rows, takeover, ttft_ms

HELP = "the first of two gateways is killed under load; its callers go on with the second"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="before and after the kill; default 10")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second; default 20")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    found = [asyncio.run(takeover(arguments.seconds, arguments.rate)) for _ in range(arguments.rounds)]
    print("| | requests | lost | streams cut | repeated | first answer ms | TTFT p50 ms before | after |")
    print("|---|---|---|---|---|---|---|---|")
    for number, each in enumerate(found, 1):
        _show(str(number), each)
    print(
        f"\nfirst answer of the second gateway, median: {1000 * median(f.first_answer_s for f in found):.0f} ms"
    )
    print("\n| what must hold | figure | at most | |\n|---|---|---|---|")
    judged = [row for each in found for row in rows(each)]
    for row in judged:
        print(
            f"| {row.claim} | {row.figure:.3g} | {row.limit:g} | {'held' if row.holds else '**NOT HELD**'} |"
        )
    return 0 if all(row.holds for row in judged) else 1


def _show(name: str, found: Takeover) -> None:
    before, after = (ttft_ms(found.due(*span), 500) for span in ((0, found.killed), (found.killed, math.inf)))
    counts = (len(found.heard), len(found.lost), len(found.cut), len(found.repeated))
    cells = " | ".join(map(str, counts))
    print(
        f"| {name} | {cells} | {1000 * found.first_answer_s:.0f} | {before:.1f} | {after:.1f} |", flush=True
    )
