"""The engines, and the ways in which one of them goes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum

import httpx

from tests.support.simulators import SimulatedEngine

NAMES = ("a", "b", "c", "d")
_POLL_S = 0.02


class How(StrEnum):
    """How an engine goes."""

    KILL = "kill"  # SIGKILL; a new process on the same port
    HANG = "hang"  # SIGSTOP: it takes connections and says nothing; SIGCONT
    DRAIN = "drain"  # SIGTERM: it finishes what runs and refuses the rest as vLLM does; a new process


class Engines:
    """Simulated engines by name, each with a port that its successor gets."""

    def __init__(self, stack: ExitStack, names: tuple[str, ...], *options: str, kind: str = "vllm") -> None:
        self._stack = stack
        self._kind = kind
        self._options = options
        self.by_name: dict[str, SimulatedEngine] = {}
        for name in names:
            self._start(name)

    @property
    def settings(self) -> list[dict[str, str]]:
        return [{"url": engine.url, "name": name} for name, engine in self.by_name.items()]

    async def go(self, name: str, how: How) -> None:
        engine = self.by_name[name]
        actions: dict[How, Callable[[], object]] = {
            How.KILL: engine.kill,
            How.HANG: engine.pause,
            How.DRAIN: engine.process.terminate,
        }
        await asyncio.to_thread(actions[how])

    async def back(self, name: str, how: How) -> float:
        """The moment of its first healthy answer."""
        engine = self.by_name[name]
        if how is How.HANG:
            engine.resume()
        else:
            await asyncio.to_thread(engine.process.wait, 60)
            await asyncio.to_thread(self._start, name, engine.port)
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=1) as client:
            while True:
                try:
                    if (await client.get(f"{engine.url}/health")).is_success:
                        return time.monotonic()
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(_POLL_S)

    def _start(self, name: str, port: int = 0) -> None:
        engine = SimulatedEngine(self._kind, ("--port", str(port), *self._options))
        self._stack.callback(engine.close)
        self.by_name[name] = engine
