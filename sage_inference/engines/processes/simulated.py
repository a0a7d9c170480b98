"""The simulated engines of ``start --simulate``: started before the gateway, gone with it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sage_inference
from sage_inference.config.settings import InstanceSettings

READY_S = 15.0
STOP_S = 5.0


class SimulatorError(Exception):
    """A simulated engine that did not start; the text says why."""


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """A simulator of our own. It lives no longer than we do, even if we are killed.

    It watches its standard input, which we hold open: whatever ends us closes that.
    """

    kind: str
    url: str
    models: tuple[str, ...]
    process: Process

    async def stop(self) -> int:
        """Ask it to finish, then insist; its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await _ended(self.process, STOP_S)


async def start(kind: str, options: Sequence[str] = ()) -> SimulatedEngine:
    """A simulated ``vllm`` or ``tei`` that answers. Raises ``SimulatorError``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sage_inference.simulator",
        kind,
        "--exit-with-parent",
        *options,
        stdin=PIPE,
        stdout=PIPE,
        env=_environment(),
        # Ctrl-C in the terminal is for the gateway, which still needs its engines while it drains.
        start_new_session=True,
    )
    try:
        ready = await _ready_line(kind, process)
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    return SimulatedEngine(kind, ready["url"], tuple(ready["models"]), process)


@asynccontextmanager
async def simulated_engines() -> AsyncIterator[list[InstanceSettings]]:
    """One simulated vLLM for chat and one simulated TEI, for as long as this is open."""
    async with AsyncExitStack() as stack:
        engines = await _all_started(stack, ("vllm", "tei"))
        yield [InstanceSettings(url=engine.url, name=f"simulated-{engine.kind}") for engine in engines]


async def _all_started(stack: AsyncExitStack, kinds: Sequence[str]) -> list[SimulatedEngine]:
    """Started side by side; if one fails, those that did start are stopped with ``stack``."""
    results = await asyncio.gather(*(start(kind) for kind in kinds), return_exceptions=True)
    engines = [one for one in results if isinstance(one, SimulatedEngine)]
    for engine in engines:
        stack.push_async_callback(engine.stop)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return engines


async def _ready_line(kind: str, process: Process) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), READY_S)
    except TimeoutError:
        raise SimulatorError(f"the simulated {kind} was not ready within {READY_S:g} s") from None
    if not line:
        status = await process.wait()
        raise SimulatorError(f"the simulated {kind} ended with status {status} before it was ready")
    ready: dict[str, Any] = json.loads(line)
    return ready


async def _ended(process: Process, seconds: float) -> int:
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        return await process.wait()


def _environment() -> dict[str, str]:
    """Ours, in which the child finds this very package wherever we were started from."""
    home = str(Path(sage_inference.__file__).resolve().parent.parent)
    already = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{already}" if already else home}
