"""One soak: a gateway with default settings before five engines, its callers, its troubles and the outcome."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.bench.outage.engines import Engines
from tests.bench.outage.phases import Row
from tests.bench.soak import chats, flat, rude, trouble, vectors
from tests.bench.soak.flat import Sample
from tests.bench.soak.world import World
from tests.support.gateway import Gateway, running_gateway

_QUIET_S = 60.0  # within which nothing may be in flight any more
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Shape:
    """How many callers of each kind there are at a time.

    ``speed``: of the engines, 1 as calibrated on a GPU. ``rest_s``: how long each caller rests after a request.
    """

    minutes: float = 10.0
    chats: int = 10
    slow: int = 3
    vectors: int = 6
    leavers: int = 4
    junk: int = 2
    speed: float = 4.0
    rest_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    world: World
    samples: list[Sample]
    before: Sample
    after: Sample
    engines: int
    left_in_flight: int
    log: str

    @property
    def tracebacks(self) -> list[str]:
        """The lines of the log that have one."""
        return [line for line in self.log.splitlines() if _TRACEBACK in line]

    def rows(self) -> Iterator[Row]:
        """The figures that must hold."""
        yield Row("wrong: a text or vector altered or another's, or a false end", self.world.wrong, 0)
        yield Row("lost: no answer, or an error though an engine could answer", self.world.lost, 0)
        yield Row("left in flight", self.left_in_flight, 0)
        yield Row("tracebacks in the log", len(self.tracebacks), 0)
        yield from flat.rows(self.samples, self.before, self.after, self.engines)


def soak(shape: Shape, seed: int) -> Outcome:
    with ExitStack() as stack:
        speed = ("--speed", str(shape.speed))
        llms = Engines(stack, ("a", "b", "c"), *speed)
        embedders = Engines(stack, ("x", "y"), *speed, kind="tei")
        document = {"instances": llms.settings + embedders.settings}
        gateway = stack.enter_context(running_gateway(config=document))
        return asyncio.run(_run(shape, random.Random(seed), gateway, (llms, embedders), document))


async def _run(
    shape: Shape, rng: random.Random, gateway: Gateway, groups: tuple[Engines, ...], document: dict[str, Any]
) -> Outcome:
    world, samples = World(gateway.port, shape.rest_s), list[Sample]()
    before = flat.sample(gateway)

    def drawn() -> random.Random:
        return random.Random(rng.random())

    async with asyncio.TaskGroup() as tasks:
        for work in (
            *(chats.caller(world, drawn()) for _ in range(shape.chats)),
            *(chats.caller(world, drawn(), slow=True) for _ in range(shape.slow)),
            *(vectors.caller(world, drawn()) for _ in range(shape.vectors)),
            *(rude.leaver(world, drawn()) for _ in range(shape.leavers)),
            *(rude.junk(world, drawn()) for _ in range(shape.junk)),
            *(trouble.outages(world, drawn(), gateway, engines) for engines in groups),
            trouble.reloads(world, drawn(), gateway, document),
            flat.watch(world, gateway, samples),
        ):
            tasks.create_task(work)
        await asyncio.sleep(60 * shape.minutes)
        world.over.set()
    left = await _settled(gateway)
    after = await asyncio.to_thread(flat.sample, gateway)
    engines = sum(len(group.by_name) for group in groups)
    return Outcome(world, samples, before, after, engines, left, gateway.log())


async def _settled(gateway: Gateway) -> int:
    """Requests in flight after all callers have left: 0, or the number after ``_QUIET_S``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _QUIET_S
    while True:
        left = flat.in_flight(await asyncio.to_thread(gateway.status))
        if not left or loop.time() > end:
            return left
        await asyncio.sleep(0.2)
