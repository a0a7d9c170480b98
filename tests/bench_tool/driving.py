"""Runs parts of the generator against a server on a port, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sage_inference.bench import mix, run
from sage_inference.bench.client import Client, ServerAddress
from sage_inference.bench.distribution import Distribution
from sage_inference.bench.eventloop import new_event_loop
from sage_inference.bench.exchange import Kind, PreparedRequest, TimedExchange
from sage_inference.bench.measurement import Progress
from sage_inference.bench.plan import Plan
from sage_inference.bench.report import Report
from sage_inference.bench.target import Target
from sage_inference.bench.workload import Workload, WorkloadShape


def fixed(tokens: int) -> Distribution:
    return Distribution("fixed", tokens)


def shape(
    kind: str = "chat", *, prompt: int = 8, output: int = 4, texts: int = 1, seed: int = 0
) -> WorkloadShape:
    return WorkloadShape(
        mix.parse(kind), fixed(prompt), fixed(output), fixed(texts), ignore_eos=True, seed=seed
    )


def plan(
    port: int, load: Any, kind: str = "chat", *, model: str = "m", key: str | None = None, **more: Any
) -> Plan:
    """Without measuring the generator itself, unless told to."""
    lengths = {name: more.pop(name) for name in ("prompt", "output", "texts", "seed") if name in more}
    own = shape(kind, **lengths)
    target = Target("127.0.0.1", port, key=key)
    more = {"ceiling": False, "timeout_s": 30.0, **more}
    return Plan(target, dict.fromkeys(own.mix, model), own, load, **more)


class Listener:
    """Keeps what it is told."""

    def __init__(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        self.steps: list[str] = []
        self._on_progress = on_progress

    def step(self, what: str) -> None:
        self.steps.append(what)

    def progress(self, progress: Progress) -> None:
        self._on_progress(progress)


def measured(of: Plan, on_progress: Callable[[Progress], None] = lambda _: None) -> Report:
    return run.run(of, Listener(on_progress))


def in_loop(work: Callable[[], Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work(), 60)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(bounded())


def job(kind: Kind = Kind.CHAT, *, port: int = 80) -> PreparedRequest:
    own = shape(kind.value)
    return Workload(own, Target("127.0.0.1", port), {kind: "m"}).request(kind)


def exchanged(
    port: int, kinds: Sequence[Kind], *, timeout_s: float = 20.0
) -> tuple[list[TimedExchange], Client]:
    """One after another over one client; each after the answer to the one before."""

    async def work() -> tuple[list[TimedExchange], Client]:
        ended: asyncio.Queue[TimedExchange] = asyncio.Queue()
        client = Client(
            ServerAddress("127.0.0.1", port), limit=4, timeout_s=timeout_s, on_end=ended.put_nowait
        )
        found = []
        for kind in kinds:
            client.send(TimedExchange(job(kind), asyncio.get_running_loop().time()))
            found.append(await ended.get())
        client.close()
        return found, client

    result: tuple[list[TimedExchange], Client] = in_loop(work)
    return result
