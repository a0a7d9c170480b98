"""The program of the jobs of ``sage inference cluster`` on Ray's head: ``python -m sage_inference.cluster up FILE|down NAMES``.

``FILE`` is the file itself, compressed, because a job is one command line. The last line of the output is the outcome.
"""

from __future__ import annotations

import sys

from sage_inference.config.cluster_file import unpacked
from sage_inference.config.errors import ConfigError

OUTCOME = "sage-inference:"


def main(words: list[str]) -> int:
    order, *rest = words
    try:
        from sage_inference.cluster.app import delete, deploy
    except ImportError as error:
        print(f"{OUTCOME} {error}")
        return 1
    try:
        if order == "up":
            print(f"{OUTCOME} deployed {' '.join(deploy(unpacked(rest[0])))}")
        else:
            delete(rest)
            print(f"{OUTCOME} ending {' '.join(rest)}")
    except ConfigError as error:  # of another version of sage-inference
        print(f"{OUTCOME} {error}")
        return 1
    except Exception as error:
        print(f"{OUTCOME} {type(error).__name__}: {' '.join(str(error).split())[:500]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
