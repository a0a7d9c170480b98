"""200 requests/s: what is added to a request's time; streams begun at that rate: whether they stall."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.load.runner import run_load
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.targets.base import MODELS, Target

RATE_PER_S = 200


def latency(bench: Bench, target: Target, seconds: float) -> Figures:
    return run_load("rate", url=target.urls["plain"], rate=RATE_PER_S, seconds=seconds)


def starts(bench: Bench, target: Target, seconds: float) -> Figures:
    return run_load(
        "starts", url=target.urls["stream"], model=MODELS["stream"], rate=RATE_PER_S, seconds=seconds
    )


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
STARTS = Scenario(
    "starts",
    f"{RATE_PER_S} streams begun a second: delay of each one's first chunks",
    "stream",
    (
        Column("start_p99_us", "p99 µs"),
        Column("start_p50_us", "p50 µs"),
        Column("start_max_us", "max µs"),
        Column("missed", "missed"),
        Column("failures", "failures"),
    ),
    starts,
)
