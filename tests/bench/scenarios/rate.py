"""200 requests/s: what is added to a request's time."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.load.runner import run_load
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.targets.base import Target

RATE_PER_S = 200


def latency(bench: Bench, target: Target, seconds: float) -> Figures:
    return run_load("rate", url=target.urls["plain"], rate=RATE_PER_S, seconds=seconds)


RATE = Scenario(
    "rate",
    f"{RATE_PER_S} requests/s",
    "plain",
    (
        Column("latency_p50_us", "p50 µs"),
        Column("latency_p99_us", "p99 µs"),
        Column("missed", "missed"),
        Column("failures", "failures"),
    ),
    latency,
)
