"""``python -m tests.bench many [CASE …]``: gateways that divide the models among them, and a standby that takes over."""

from __future__ import annotations

import argparse
import json
import os

from tests.bench.commands.traces import document, played, text
from tests.bench.many.cases import CASES

HELP = "several gateways with models of their own, and a standby that takes over, before modelled engines"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; default all")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    parser.add_argument(
        "--part",
        type=float,
        default=1.0,
        help="of each case, for a quick look; takeovers need two minutes of theirs",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="cases played at the same time, each in a process of its own; default: one a core",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when every bound held."""
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        print(f"error: no case {unknown[0]}; there are {', '.join(CASES)}")
        return 2
    held = True
    cases = [CASES[name] for name in arguments.cases or CASES]
    for result in played(cases, arguments.part, arguments.jobs):
        print(json.dumps(document(result)) if arguments.json else text(result), flush=True)
        held = held and all(bound.held for bound in result.bounds)
    return 0 if held else 1
