"""One simulated engine that is ready at once, until SIGTERM. It prints one line when it is ready."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

import uvloop

from sage_inference.simulator.engine import SimulatedEngine
from sage_inference.simulator.listeners import Listener, Port, UnixSocket
from sage_inference.simulator.options import Options, parse
from sage_inference.simulator.server import SimulatorServer, end_with_parent


async def serve(options: Options) -> None:
    port: Listener = UnixSocket(options.uds) if options.uds else Port(options.host, options.port)
    control = Port(options.host, 0)
    engine = options.engine()
    server = SimulatorServer(
        engine,
        port,
        control,
        on_ready=lambda: print(_ready_line(options, engine, port, control), flush=True),
        faults=options.faults,
        drain_s=options.drain_s,
        keep_alive_s=options.keep_alive_s,
    )
    if options.exit_with_parent:
        end_with_parent()
    await server.run()


def _ready_line(options: Options, engine: SimulatedEngine, port: Listener, control: Listener) -> str:
    line = {
        "ready": True,
        "kind": engine.kind,
        "url": port.url,
        "host": options.host,
        "port": port.number,
        "control_port": control.number,
        "pid": os.getpid(),
        "models": list(engine.models),
    }
    return json.dumps(line)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(options))
    except OSError as error:
        place = options.uds or f"{options.host}:{options.port}"
        print(f"cannot listen on {place}: {error.strerror}", file=sys.stderr)
        return 1
    return 0
