"""Samples of the gateway's process through a run: memory, descriptors, tasks and threads."""

from __future__ import annotations

import asyncio
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench.outage.phases import Row
from tests.bench.soak.world import World
from tests.support.gateway import Gateway

_EVERY_S = 1.0
_TASKS = re.compile(r"^sage_event_loop_tasks (\d+)", re.M)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    rss: int  # bytes
    descriptors: int
    tasks: int  # of the event loop
    threads: int


def sample(gateway: Gateway) -> Sample:
    process = psutil.Process(gateway.process.pid)
    with gateway.client(timeout=30) as client:
        page = client.get("/metrics").text
    tasks = _TASKS.search(page)
    assert tasks is not None
    with process.oneshot():
        return Sample(process.memory_info().rss, process.num_fds(), int(tasks[1]), process.num_threads())


async def watch(world: World, gateway: Gateway, samples: list[Sample]) -> None:
    while not world.over.is_set():
        samples.append(await asyncio.to_thread(sample, gateway))
        await world.pause(_EVERY_S)


def rows(samples: Sequence[Sample], before: Sample, after: Sample, engines: int) -> Iterator[Row]:
    """``after``: when all callers have left, as ``before``: when none had come. The first quarter is warm-up."""
    quarter = max(1, len(samples) // 4)
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]

    def growth(of: Callable[[Sample], int], slack: float) -> float:
        first, last = (statistics.median(map(of, some)) for some in (early, late))
        return max(0.0, last - slack) / first

    yield Row("memory under load, last quarter ÷ second", growth(lambda s: s.rss, 2 * _MIB), 1.05)
    yield Row("descriptors under load, last quarter ÷ second", growth(lambda s: s.descriptors, 8), 1.1)
    # Few: an engine that comes back or goes takes some for a while, longer on a busy machine.
    yield Row("tasks under load, last quarter ÷ second", growth(lambda s: s.tasks, 8), 1.1)
    yield Row("threads beyond those of the second quarter", late[-1].threads - early[-1].threads, 2)
    # A crowd that has left leaves up to 16 idle connections to each engine.
    yield Row(
        "descriptors afterwards beyond those before", after.descriptors - before.descriptors, 16 * engines
    )
    yield Row("tasks afterwards beyond those before", after.tasks - before.tasks, 2)


def in_flight(status: dict[str, Any]) -> int:
    """Requests and texts that ``status`` counts as under way or waiting."""
    counted = [status["requests"]["in_flight"], status["requests"]["queued"]]
    counted += [instance["in_flight"] for instance in status["instances"]]
    counted += [status["embeddings"][key] for key in ("in_flight", "waiting_texts")]
    return sum(counted)
