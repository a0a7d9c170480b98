"""``python -m sage_inference.simulator vllm|tei``: one simulated engine until SIGTERM.

With the name of an engine's own command, such as ``vllm-serve``, it also starts as that engine does.
"""

from __future__ import annotations

import sys

from sage_inference.simulator.starting.commands import COMMANDS, run


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        return run(sys.argv[1], sys.argv[2:])
    from sage_inference.simulator import one_engine  # a real start loads it after its first lines

    return one_engine.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
