"""Serves a simulated engine from its readiness to its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine

import uvloop

from sage_inference.simulator.engine import SimulatedEngine
from sage_inference.simulator.listeners import Listener
from sage_inference.simulator.server import SimulatorServer
from sage_inference.simulator.starting.options import StartOptions


def serve(
    engine: Callable[[], SimulatedEngine],
    listener: Listener,
    options: StartOptions,
    *,
    on_ready: Callable[[], None],
    beside: Callable[[SimulatorServer], Coroutine[None, None, None]] | None = None,
    drain_s: float = 30.0,
) -> None:
    """Serve until a signal ends it. ``beside`` runs at the same time, and may stop the server."""

    async def run() -> None:
        server = SimulatorServer(
            engine(), listener, None, faults=list(options.faults), drain_s=drain_s, on_ready=on_ready
        )
        tasks = [asyncio.ensure_future(beside(server))] if beside else []
        if options.exit_status is not None:
            tasks.append(asyncio.ensure_future(_end_later(options.exit_status, options.after_s)))
        try:
            await server.run()
        finally:
            for task in tasks:
                task.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def _end_later(status: int, seconds: float) -> None:
    """End as a crash does: at once, and without a word."""
    await asyncio.sleep(seconds)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)
