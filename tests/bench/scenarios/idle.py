"""10,000 idle keep-alive connections beside 200 requests/s on active ones."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.load.runner import run_load
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.scenarios.rate import RATE_PER_S
from tests.bench.targets.base import Target

CONNECTIONS = 10_000


def measure(bench: Bench, target: Target, seconds: float) -> Figures:
    """Each idle connection has relayed a request before, and must relay one afterwards."""
    url = target.urls["plain"]
    return run_load("idle", url=url, connections=CONNECTIONS, rate=RATE_PER_S, seconds=seconds)


IDLE = Scenario(
    "idle",
    f"{CONNECTIONS:,} idle connections, {RATE_PER_S} requests/s on 16 others",
    "plain",
    (
        Column("latency_p99_us", "p99 µs"),
        Column("before_latency_p99_us", "without idle ones"),
        Column("latency_p50_us", "p50 µs"),
        Column("before_latency_p50_us", "without idle ones"),
        Column("held", "held"),
        Column("failures", "failures"),
    ),
    measure,
)
