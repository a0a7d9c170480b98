"""Measures the generator's own limit, with a server that does nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice

from sage_inference.bench.client import ServerAddress
from sage_inference.bench.errors import BenchError
from sage_inference.bench.exchange import PreparedRequest
from sage_inference.bench.measurement import Measurement
from sage_inference.bench.plan import Closed, Plan, Replay
from sage_inference.bench.report import Ceiling
from sage_inference.bench.slo import SloLimits
from sage_inference.bench.tally import total
from sage_inference.bench.target import Target
from sage_inference.bench.workload import Workload
from sage_inference.interpreter import command, environment

SECONDS = 1.0
_WARM_UP_S = 0.2
_CONCURRENCY = 64  # in place of an open loop's concurrency, which is not known beforehand
_TIMEOUT_S = 60.0  # not the plan's: an answer that times out would not count, and neither would its chunks
_ROWS = 1000


async def measure(plan: Plan, limit: int) -> Ceiling:
    """The limit for the plan's requests. Takes a little over a second."""
    concurrency = plan.load.concurrency if isinstance(plan.load, Closed) else _CONCURRENCY
    with echo() as port:
        target = Target("127.0.0.1", port)
        load = Closed(concurrency)
        own = replace(
            plan,
            target=target,
            load=load,
            duration_s=SECONDS,
            requests=None,
            warmup_s=_WARM_UP_S,
            timeout_s=_TIMEOUT_S,
            slo=SloLimits(),
        )
        workload = Workload(plan.shape, target, plan.models)
        requests: Iterator[PreparedRequest]
        if isinstance(plan.load, Replay):
            requests = map(workload.replayed, cycle(islice(plan.load.rows, _ROWS)))
        else:
            requests = workload.requests()
        measurement = Measurement(own, requests, ServerAddress(target.host, port), limit, lambda _: None)
        await measurement.run(cut_at_end=True)
    if measurement.interrupted:
        raise KeyboardInterrupt
    found, seconds = total(measurement.tallies.values()), measurement.window.seconds
    return Ceiling(concurrency, found.completed / seconds, found.chunks / seconds, measurement.cpu or 0.0)


@contextmanager
def echo() -> Iterator[int]:
    """The port of an echo server in a process of its own, so that it uses another core."""
    process = subprocess.Popen(  # noqa: S603 - ourselves
        command("sage_inference.bench.echo"),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C must reach this process only
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline()
        if not port:
            raise BenchError(
                "the server that measures the generator did not start", "--no-ceiling skips this step"
            )
        yield int(port)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
