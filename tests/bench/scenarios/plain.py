"""Plain answers of 600 bytes, as fast as they go over 64 connections."""

from __future__ import annotations

import time

from tests.bench.bench import Bench
from tests.bench.load import wrk
from tests.bench.mock import plain
from tests.bench.scenarios.base import Column, Figures, Scenario, used
from tests.bench.targets.base import Target

CONNECTIONS = 64


def measure(bench: Bench, target: Target, seconds: float) -> Figures:
    """``counted`` is the engine's own count of requests over the load's."""
    before, cpu, began = bench.engines.plain_requests(), target.cpu_s("plain"), time.monotonic()
    done = wrk.run(f"{target.urls['plain']}/v1/chat/completions", plain.request(), CONNECTIONS, seconds)
    took, cpu = time.monotonic() - began, target.cpu_s("plain") - cpu
    seen = bench.engines.plain_requests() - before - 1  # the count's own question
    return {
        "per_s": done["per_s"],
        "failures": done["failures"],
        "counted": seen / done["requests"] if done["requests"] else None,
    } | used(target, "plain", cpu, done["requests"], took)


PLAIN = Scenario(
    "plain",
    f"plain answers of {len(plain.ANSWER)} bytes, {CONNECTIONS} connections",
    "plain",
    (
        Column("per_s", "requests/s"),
        Column("cpu_us", "CPU µs/request", 1),
        Column("core_pct", "core %"),
        Column("counted", "engine's count ÷ load's", 3),
        Column("failures", "failures"),
    ),
    measure,
)
