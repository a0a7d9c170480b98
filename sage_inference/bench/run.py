"""A whole benchmark: the generator's ceiling, one request of each kind, the load, the report."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace
from typing import Protocol

from sage_inference.bench import ceiling, preflight, verdict
from sage_inference.bench.eventloop import new_event_loop
from sage_inference.bench.load import OpenLoop
from sage_inference.bench.measurement import Measurement, Progress
from sage_inference.bench.plan import Plan, Replay
from sage_inference.bench.report import Ceiling, Figures, Own, Report
from sage_inference.bench.samples import summary
from sage_inference.bench.tally import total
from sage_inference.bench.workload import Workload

_OTHER_FILES = 64
_PORTS = 20000  # for connections to one address; Linux has 28,000 by default


class ProgressListener(Protocol):
    """Receives the progress of a benchmark."""

    def step(self, what: str) -> None: ...

    def progress(self, progress: Progress) -> None: ...


def run(plan: Plan, listener: ProgressListener) -> Report:
    """Run a plan. Raises ``BenchError`` if nothing can be measured, ``KeyboardInterrupt`` before the load begins."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_run(plan, listener))


async def _run(plan: Plan, listener: ProgressListener) -> Report:
    limit = _connections()
    endpoint = preflight.reach(plan.target)
    workload = Workload(plan.shape, plan.target, plan.models)
    listener.step("trying one request of each kind")
    await preflight.try_each(plan, workload, endpoint)
    found: Ceiling | None = None
    if plan.ceiling:
        listener.step("measuring the generator itself")
        found = await ceiling.measure(plan, limit)
    listener.step("measuring")
    load = plan.load
    requests = map(workload.replayed, load.rows) if isinstance(load, Replay) else workload.requests()
    measurement = Measurement(plan, requests, endpoint, limit, listener.progress)
    await measurement.run()
    return _report(plan, measurement, found)


def _report(plan: Plan, measurement: Measurement, found: Ceiling | None) -> Report:
    window, slo, load = measurement.window, plan.slo, measurement.load
    figures = Figures.of(total(measurement.tallies.values()), window, slo)
    kinds = {kind: Figures.of(tally, window, slo) for kind, tally in measurement.tallies.items()}
    own = Own(
        cpu=measurement.cpu or 0.0,
        lag=summary(measurement.lag),
        late=summary(load.late) if isinstance(load, OpenLoop) else None,
        waited=measurement.client.waited,
        connections=measurement.client.connections,
        ceiling=found,
    )
    return Report(
        url=plan.target.url,
        models=plan.models,
        seconds=window.seconds,
        interrupted=measurement.interrupted,
        total=figures,
        kinds=kinds,
        own=replace(own, reasons=verdict.reasons(figures, own)),
        warnings=verdict.warnings(figures, kinds, window.seconds),
    )


def _connections() -> int:
    """The most connections of this process, after raising its limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _PORTS + _OTHER_FILES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - _OTHER_FILES
