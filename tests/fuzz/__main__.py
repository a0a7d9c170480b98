"""The command: so many inputs on one path, with the smallest input that breaks an invariant, if one does.

``cpu`` searches for ``--minutes`` for requests that take more of the event loop than their bytes allow.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz import cost
from tests.fuzz.campaign import EMBEDDINGS, PATHS, campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("path", choices=(*PATHS, EMBEDDINGS, "cpu"))
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=60, help="of a search for what costs too much (cpu)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--progress", action="store_true", help="a line after each round")
    arguments = parser.parse_args()
    if arguments.path == "cpu":
        return _costs(arguments.minutes, arguments.seed)
    began = time.monotonic()

    def told(done: int) -> None:
        print(f"{done} inputs in {time.monotonic() - began:.0f} s", flush=True)

    progress = told if arguments.progress else None
    failure = campaign(arguments.path, arguments.inputs, arguments.seed, progress)
    if failure is not None:
        print(failure, file=sys.stderr)
        return 1
    seconds = time.monotonic() - began
    print(f"{arguments.inputs} inputs on the {arguments.path} path in {seconds:.0f} s: every invariant held")
    return 0


def _costs(minutes: float, seed: int) -> int:
    suspects = []
    for what, recipe in cost.search(minutes * 60, seed, report=True):
        suspects.append(recipe)
        print(f"{what}\n{cost.written(recipe)}", file=sys.stderr, flush=True)
    # On a busy machine everything is dearer for minutes. What really is over the bound is so again.
    dear = [recipe for recipe in suspects if cost.is_dear(recipe)]
    print(
        f"{len(suspects)} kinds of input looked too dear, {len(dear)} of them again when measured once more"
    )
    for recipe in dear:
        print(cost.written(recipe))
    return 1 if dear else 0


if __name__ == "__main__":
    sys.exit(main())
