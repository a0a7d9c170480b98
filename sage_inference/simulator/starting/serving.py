"""Serves a simulated engine from its readiness to its end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from functools import partial

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
    load: Callable[[SimulatedEngine], None] | None = None,
    drain_s: float = 30.0,
) -> None:
    """Serve until a signal ends it. ``beside`` runs at the same time, and may stop the server.

    ``load`` is the rest of a start that goes on, in a thread, after the server listens.
    """

    async def finish_start(made: SimulatedEngine) -> None:
        if load is not None:
            await _in_thread(partial(load, made))
        if options.exit_status is not None:
            await _end_later(options.exit_status, options.after_s)

    async def run() -> None:
        made = engine()
        server = SimulatorServer(
            made, listener, None, faults=list(options.faults), drain_s=drain_s, on_ready=on_ready
        )
        tasks = [asyncio.ensure_future(beside(server))] if beside else []
        tasks.append(asyncio.ensure_future(finish_start(made)))
        try:
            await server.run()
        finally:
            for task in tasks:
                task.cancel()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def _in_thread(work: Callable[[], None]) -> None:
    """Like ``asyncio.to_thread``, but the end of the process does not wait for the thread."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        work()
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    await done.wait()


async def _end_later(status: int, seconds: float) -> None:
    """End as a crash does: at once, and without a word."""
    await asyncio.sleep(seconds)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)
