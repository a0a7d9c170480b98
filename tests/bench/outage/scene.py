"""One run: callers at a gateway as it is shipped, and an engine that goes under their eyes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.bench.errors import BenchError
from tests.bench.outage.callers import Callers
from tests.bench.outage.engines import NAMES, Engines, How
from tests.bench.outage.heard import End, Heard
from tests.support.gateway import Gateway, running_gateway

VICTIM = NAMES[-1]
_POLL_S = 0.02
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Shape:
    """``down_s``: from the engine's going to the begin of its return. ``speed``: of the engines, 1 as calibrated."""

    calm_s: float = 20.0
    down_s: float = 20.0
    after_s: float = 20.0
    per_s: float = 20.0
    prompt_words: int = 2400
    output_tokens: int = 40
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Moments:
    """Of ``time.monotonic``."""

    went: float
    noticed: float  # the gateway no longer calls it ready
    healthy: float  # its first healthy answer after its return
    ready: float  # the gateway calls it ready
    answered: float  # the first byte of its answer to somebody who came after its return


@dataclass(frozen=True, slots=True)
class Scene:
    """``moments``: None where nothing went."""

    heard: list[Heard]
    began: float
    left_in_flight: int  # as the gateway counts when all callers have gone
    retries: int
    breaks_elsewhere: int  # answers that the other engines saw broken off
    moments: Moments | None = None

    def due(self, start: float, end: float) -> list[Heard]:
        return [one for one in self.heard if start <= one.due < end]

    def which(self, end: End) -> list[Heard]:
        return [one for one in self.heard if one.end is end]


async def outage(how: How, shape: Shape) -> Scene:
    """Four engines, of which the last goes and comes back."""
    async with _stage(NAMES, shape) as stage:
        callers, engines = stage.callers, stage.engines
        await asyncio.sleep(shape.calm_s)
        await callers.until(lambda one: one.instance == VICTIM and one.streams, _PATIENCE_S)
        await engines.go(VICTIM, how)
        went = time.monotonic()
        noticed = asyncio.create_task(stage.until_ready(False))
        await asyncio.sleep(shape.down_s)
        healthy = await engines.back(VICTIM, how)
        ready = await stage.until_ready(True)
        first = await callers.until(
            lambda one: one.instance == VICTIM and one.due >= healthy and bool(one.body), _PATIENCE_S
        )
        await asyncio.sleep(shape.after_s)
        return await stage.end(Moments(went, await noticed, healthy, ready, first.first))


async def calm(shape: Shape) -> Scene:
    """The same callers at the same moments before three engines that never fail."""
    async with _stage(NAMES[:-1], shape) as stage:
        await asyncio.sleep(shape.calm_s + shape.down_s)
        return await stage.end()


@dataclass(slots=True)
class _Stage:
    gateway: Gateway
    engines: Engines
    callers: Callers
    client: httpx.AsyncClient
    began: float

    async def status(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self.client.get("/admin/status")).raise_for_status().json()
        return document

    async def until_ready(self, ready: bool) -> float:
        """The moment from which the gateway says so of the engine that goes. Raises ``BenchError``."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while await self._is_ready() is not ready:
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            wanted = "ready" if ready else "out of service"
            raise BenchError(
                f"within {_PATIENCE_S:.0f} s the gateway did not call {VICTIM} {wanted}"
            ) from None
        return time.monotonic()

    async def _is_ready(self) -> bool:
        instances = (await self.status())["instances"]
        return any(i["state"] == "ready" for i in instances if i["name"] == VICTIM)

    async def end(self, moments: Moments | None = None) -> Scene:
        await self.callers.leave()
        status = await self.status()
        running = [status["requests"]["in_flight"], status["requests"]["queued"]]
        running += [instance["in_flight"] for instance in status["instances"]]
        page = (await self.client.get("/metrics")).text
        [retries] = [line for line in page.splitlines() if line.startswith("sage_retries_total ")]
        others = [engine for name, engine in self.engines.by_name.items() if name != VICTIM]
        breaks = sum(int(engine.stats()["disconnects"]) for engine in others)
        return Scene(self.callers.heard, self.began, sum(running), int(retries.split()[1]), breaks, moments)


@asynccontextmanager
async def _stage(names: tuple[str, ...], shape: Shape) -> AsyncIterator[_Stage]:
    with ExitStack() as stack:
        engines = Engines(stack, names, "--speed", str(shape.speed))
        gateway = stack.enter_context(running_gateway(config={"instances": engines.settings}))
        async with httpx.AsyncClient(
            base_url=gateway.url, headers=gateway.admin, trust_env=False, timeout=10
        ) as client:
            callers = Callers([gateway.port], shape.per_s, shape.prompt_words, shape.output_tokens)
            callers.come()
            yield _Stage(gateway, engines, callers, client, time.monotonic())
