"""``soak``: mixed callers for minutes or hours, while engines die and the configuration is reloaded."""

from __future__ import annotations

import argparse
import random

from tests.bench.soak.run import Shape, soak

HELP = "mixed callers, leavers, slow readers, junk, kills and reloads; all is compared, nothing may grow"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=Shape().minutes, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="of what is asked and what fails; default: a new one")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    outcome = soak(Shape(minutes=arguments.minutes), seed)
    print(f"{arguments.minutes:g} minutes, seed {seed}\n\n| what was done | count |\n|---|---|")
    for name, count in sorted(outcome.world.counts.items()):
        print(f"| {name} | {count} |")
    print("\n| what must hold | figure | at most | |\n|---|---|---|---|")
    rows = list(outcome.rows())
    for row in rows:
        print(
            f"| {row.claim} | {row.figure:.4g} | {row.limit:g} | {'held' if row.holds else '**NOT HELD**'} |"
        )
    for finding in outcome.world.findings:
        print(f"- {finding}")
    return 0 if all(row.holds for row in rows) else 1
