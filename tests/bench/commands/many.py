"""``python -m tests.bench many [CASE …]``: gateways that divide the models among them, and a standby that takes over."""

from __future__ import annotations

import argparse
import json

from tests.bench.commands.traces import add_case_options, document, names_unknown, played, text
from tests.bench.many.cases import CASES

HELP = "several gateways with models of their own, and a standby that takes over, before modelled engines"


def configure(parser: argparse.ArgumentParser) -> None:
    add_case_options(parser, CASES, "takeovers need two minutes of theirs")


def run(arguments: argparse.Namespace) -> int:
    """0 when every bound held."""
    if names_unknown(arguments, CASES):
        return 2
    held = True
    cases = [CASES[name] for name in arguments.cases or CASES]
    for result in played(cases, arguments.part, arguments.jobs):
        print(json.dumps(document(result)) if arguments.json else text(result), flush=True)
        held = held and all(bound.held for bound in result.bounds)
    return 0 if held else 1
