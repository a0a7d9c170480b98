"""64 streams: paced, where a chunk's cost shows; as fast as they go; and all begun in the same moment."""

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


def starts(bench: Bench, target: Target, seconds: float) -> Figures:
    where = {"url": target.urls["stream"], "model": MODELS["stream"]}
    return run_load("starts", streams=STREAMS, seconds=seconds, **where)


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
STARTS = Scenario(
    "starts",
    f"{STREAMS} streams begun in the same moment, wave after wave: delay of their first chunks",
    "stream",
    (
        Column("start_p99_us", "p99 µs"),
        Column("start_p50_us", "p50 µs"),
        Column("start_max_us", "max µs"),
        Column("waves", "waves"),
        Column("failures", "failures"),
    ),
    starts,
)
