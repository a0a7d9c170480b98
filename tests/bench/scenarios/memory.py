"""Memory: of a thousand open streams, and after a million requests."""

from __future__ import annotations

import time

from tests.bench.bench import Bench
from tests.bench.load import wrk
from tests.bench.load.runner import run_load
from tests.bench.mock import plain
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.scenarios.plain import CONNECTIONS
from tests.bench.targets.base import MODELS, Target

STREAMS = 1_000
SOON, LATE = 100_000, 1_000_000
_SETTLE_S = 5.0
_SPELL_S = 2.0


def streams(bench: Bench, target: Target, seconds: float) -> Figures:
    """``after_kib``: 5 s after the last stream's end. ``seconds`` has no say: the streams last 8 s."""
    before = target.resident_kib("stream")
    open_kib = [before]
    result = run_load(
        "whole",
        lambda: open_kib.append(target.resident_kib("stream")),
        url=target.urls["stream"],
        model=MODELS["stream"],
        streams=STREAMS,
    )
    time.sleep(_SETTLE_S)
    after = target.resident_kib("stream")
    return result | {
        "stream_kib": (max(open_kib) - before) / STREAMS,
        "before_mib": before / 1024,
        "open_mib": max(open_kib) / 1024,
        "after_mib": after / 1024,
        "after_ratio": after / before,
    }


def requests(bench: Bench, target: Target, seconds: float) -> Figures:
    """``seconds`` has no say: it takes as long as the requests take."""
    url, began = f"{target.urls['plain']}/v1/chat/completions", bench.engines.plain_requests()

    def resident_after(count: int) -> float:
        while bench.engines.plain_requests() - began < count:
            wrk.run(url, plain.request(), CONNECTIONS, _SPELL_S)
        return target.resident_kib("plain")

    soon, late = resident_after(SOON), resident_after(LATE)
    return {"soon_mib": soon / 1024, "late_mib": late / 1024, "late_ratio": late / soon}


MEMORY = Scenario(
    "memory",
    f"{STREAMS:,} open streams of a gateway just started, every byte compared",
    "stream",
    (
        Column("stream_kib", "KiB/stream", 1),
        Column("before_mib", "MiB before", 1),
        Column("open_mib", "open", 1),
        Column("after_mib", "5 s after", 1),
        Column("after_ratio", "after ÷ before", 3),
        Column("at_once", "open at once"),
        Column("whole", "complete and unchanged"),
    ),
    streams,
    who="gateways",
    once=True,
    fresh=True,
)
MILLION = Scenario(
    "million",
    f"memory after {SOON:,} and {LATE:,} relayed requests",
    "plain",
    (
        Column("late_ratio", "late ÷ soon", 3),
        Column("soon_mib", f"MiB after {SOON:,}", 1),
        Column("late_mib", f"after {LATE:,}", 1),
    ),
    requests,
    who="ours",
    once=True,
    fresh=True,
)
