"""The simulated engines of ``start --simulate``, which start before the gateway and end with it."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sage_inference.config.settings import InstanceSettings
from sage_inference.interpreter import command, environment

READY_S = 15.0
STOP_S = 5.0


class SimulatorError(Exception):
    """A simulated engine did not start. The message has the reason."""


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """A process with a simulator. It ends with this process, even if that is killed.

    It watches its standard input, which is a pipe from this process: the end of this process closes it.
    """

    kind: str
    url: str
    models: tuple[str, ...]
    process: Process

    async def stop(self) -> int:
        """Terminate the process, kill it if it does not end in time, and return its exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        return await _ended(self.process, STOP_S)


async def start(kind: str, options: Sequence[str] = ()) -> SimulatedEngine:
    """Start a simulated ``vllm`` or ``tei``, and return when it is ready. Raises ``SimulatorError``."""
    process = await asyncio.create_subprocess_exec(
        *command("sage_inference.simulator", kind, "--exit-with-parent", *options),
        stdin=PIPE,
        stdout=PIPE,
        env=environment(),
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
async def simulated_engines(without: Collection[str] = ()) -> AsyncIterator[list[InstanceSettings]]:
    """Run one simulated vLLM for chat and one simulated TEI within the context, except for those kinds."""
    async with AsyncExitStack() as stack:
        engines = await _all_started(stack, [kind for kind in ("vllm", "tei") if kind not in without])
        yield [InstanceSettings(url=engine.url, name=f"simulated-{engine.kind}") for engine in engines]


async def _all_started(stack: AsyncExitStack, kinds: Sequence[str]) -> list[SimulatedEngine]:
    """Start the engines at the same time. If one fails, ``stack`` stops the others."""
    results = await asyncio.gather(*(start(kind) for kind in kinds), return_exceptions=True)
    engines = [one for one in results if isinstance(one, SimulatedEngine)]
    for engine in engines:
        stack.push_async_callback(engine.stop)
    for one in results:
        if isinstance(one, BaseException):
            raise one
    return engines


async def _ready_line(kind: str, process: Process) -> dict[str, Any]:
    """The line that reports readiness. Lines before it, such as those of a ``sitecustomize``, are skipped."""
    printed: list[str] = []
    deadline = time.monotonic() + READY_S
    while True:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                line = await _line(process)
        except TimeoutError:
            late = f"the simulated {kind} was not ready within {READY_S:g} s{_quoted(printed)}"
            raise SimulatorError(late) from None
        if not line:
            status = await process.wait()
            ended = f"the simulated {kind} ended with status {status} before it was ready{_quoted(printed)}"
            raise SimulatorError(ended)
        ready = _ready(line)
        if ready is not None:
            return ready
        printed.append(line.decode("utf-8", "replace").strip())


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    try:
        return await process.stdout.readline()
    except ValueError:  # the line is longer than the reader's limit, and dropped
        return b"(a line that is too long)"


def _ready(line: bytes) -> dict[str, Any] | None:
    """The document of a line that reports readiness; None for any other line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ready = isinstance(found, dict) and isinstance(found.get("url"), str)
    return found if is_ready and isinstance(found.get("models"), list) else None


def _quoted(printed: Sequence[str]) -> str:
    lines = [line for line in printed if line]
    return f"; it printed {lines[-1][:200]!r}" if lines else ""


async def _ended(process: Process, seconds: float) -> int:
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        return await process.wait()
