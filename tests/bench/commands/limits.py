"""``limits``: many keys at random limits, with streams, callers that leave, and engines that fail."""

from __future__ import annotations

import argparse
import random

from tests.bench.limits.run import KEYS, Shape, limits

HELP = "keys at random limits and more work than they allow: none may get more, and none less"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=Shape().seconds, help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=KEYS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="of limits and requests; default: a new one")


def run(arguments: argparse.Namespace) -> int:
    """0 when all held."""
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    outcome = limits(Shape(seconds=arguments.seconds, keys=arguments.keys), seed)
    served = sum(len(account.served) for account in outcome.accounts)
    refused = sum(account.refusals.total() for account in outcome.accounts)
    print(f"{outcome.seconds:.0f} s, seed {seed}: {served} requests served, {refused} refused by a limit, ")
    print(f"{outcome.retried} sent to another engine\n")
    print("| key | limits | served | tokens | refused | over, requests | unused, % |")
    print("|---|---|---|---|---|---|---|")
    for account in outcome.accounts:
        given = ", ".join(f"{limit} {most}" for limit, most in account.limits.items())
        print(
            f"| {account.name} | {given} | {len(account.served)} | {outcome.counted[account.name]} "
            f"| {account.refusals.total()} | {account.beyond(outcome.counted[account.name]):.2f} | {100 * account.unused(outcome.counted[account.name]):.2f} |"
        )
    print("\n| what must hold | figure | at most | |\n|---|---|---|---|")
    rows = list(outcome.rows())
    for row in rows:
        print(
            f"| {row.claim} | {row.figure:.4g} | {row.limit:g} | {'held' if row.holds else '**NOT HELD**'} |"
        )
    for finding in outcome.miscounted():
        print(f"- {finding}")
    return 0 if all(row.holds for row in rows) else 1
