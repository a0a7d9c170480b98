"""``python -m tests.bench.load MODE JSON``: runs one load generator with the JSON's keys as its arguments.

Writes a line ``MARK`` whenever the generator marks a moment, and at the end its result as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping

import uvloop

from tests.bench.load import idle, leave, paced_rate, queued, short_streams, starts, streams, whole

MODES: Mapping[str, Callable[..., Awaitable[dict[str, float | None]]]] = {
    "streams": streams.run,
    "rate": paced_rate.run,
    "starts": starts.run,
    "whole": whole.run,
    "idle": idle.run,
    "leave": leave.run_in_turn,
    "leave_at_once": leave.run_at_once,
    "queued": queued.run,
    "short_streams": short_streams.run,
}
_LIMIT_S = 240.0


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(json.dumps(uvloop.run(_result(sys.argv[1], json.loads(sys.argv[2])))), flush=True)


async def _result(mode: str, arguments: dict[str, object]) -> dict[str, float | None]:
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await MODES[mode](**arguments)
    except TimeoutError:
        sys.exit(f"the load generator {mode} did not end within {_LIMIT_S:g} s: an answer never came")


if __name__ == "__main__":
    main()
