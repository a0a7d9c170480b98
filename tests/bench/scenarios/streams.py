"""64 streams: paced, where a chunk's cost shows, and as fast as they go."""

from __future__ import annotations

import time

from tests.bench.bench import Bench
from tests.bench.load.runner import run_load
from tests.bench.scenarios.base import Column, Figures, Scenario, used
from tests.bench.targets.base import MODELS, Target

STREAMS = 64
_PACE_US = 10_000


def _measure(target: Target, seconds: float, gap_us: int) -> Figures:
    marks: list[tuple[float, float]] = []
    result = run_load(
        "streams",
        lambda: marks.append((target.cpu_s("stream"), time.monotonic())),
        url=target.urls["stream"],
        model=MODELS["stream"],
        streams=STREAMS,
        gap_us=gap_us,
        seconds=seconds,
    )
    (cpu0, began), (cpu1, ended) = marks
    return result | used(target, "stream", cpu1 - cpu0, result["chunks"], ended - began)


def paced(bench: Bench, target: Target, seconds: float) -> Figures:
    return _measure(target, seconds, _PACE_US)


def saturated(bench: Bench, target: Target, seconds: float) -> Figures:
    return _measure(target, seconds, 0)


PACED = Scenario(
    "paced",
    f"{STREAMS} streams of {1_000_000 // _PACE_US} chunks/s",
    "stream",
    (
        Column("cpu_us", "CPU µs/chunk", 1),
        Column("chunks_per_s", "chunks/s"),
        Column("core_pct", "core %"),
        Column("delay_p50_us", "delay p50 µs"),
        Column("delay_p99_us", "delay p99 µs"),
        Column("failures", "failures"),
    ),
    paced,
)
SATURATED = Scenario(
    "saturated",
    f"{STREAMS} streams as fast as they go",
    "stream",
    (
        Column("chunks_per_s", "chunks/s"),
        Column("cpu_us", "CPU µs/chunk", 2),
        Column("core_pct", "core %"),
        Column("failures", "failures"),
    ),
    saturated,
)
