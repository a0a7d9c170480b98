"""``python -m sage_inference.simulator vllm|tei``: one simulated engine until SIGTERM."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from sage_inference.simulator.options import Options, parse
from sage_inference.simulator.server import SimulatorServer, end_with_parent


async def serve(options: Options) -> None:
    server = SimulatorServer(
        options.engine(),
        host=options.host,
        port=options.port,
        faults=options.faults,
        drain_s=options.drain_s,
        keep_alive_s=options.keep_alive_s,
    )
    if options.exit_with_parent:
        end_with_parent()
    await server.run()


def main() -> int:
    options = parse(sys.argv[1:])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options))
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
