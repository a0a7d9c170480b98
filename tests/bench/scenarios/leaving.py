"""Callers that leave: within a stream, before the first byte, in the queue, and 500 in the same moment."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.load.runner import run_load
from tests.bench.scenarios.base import Column, Figures, Scenario
from tests.bench.targets.base import MODELS, Target
from tests.bench.targets.ours import ours

TIMES = 100
CROWD = 500


def leaving(bench: Bench, target: Target, seconds: float) -> Figures:
    where = {
        "url": target.urls["stream"],
        "model": MODELS["stream"],
        "engine_url": bench.engines.urls["stream"],
    }
    figures: Figures = {}
    for name, streamed in (("streamed", True), ("waiting", False)):
        result = run_load("leave", streamed=streamed, times=TIMES, **where)
        figures |= {f"{name}_{key}": value for key, value in result.items()}
    has_status = bench.launchers[target.name].ours
    return figures | run_load("leave_at_once", callers=CROWD, has_status=has_status, **where)


def queued(bench: Bench, target: Target, seconds: float) -> Figures:
    """A gateway of its own, whose engine takes one request at a time."""
    launcher = bench.launchers[target.name]
    with bench.fresh(ours(f"{launcher.name}-one-slot", launcher.tree, slots=1), ("stream",)) as narrow:
        where = {"url": narrow.urls["stream"], "engine_url": bench.engines.urls["stream"]}
        return run_load("queued", model=MODELS["stream"], times=TIMES, **where)


LEAVING = Scenario(
    "leaving",
    f"from a caller's leaving to the engine's knowing, {TIMES} times each (given up after 5 not within 3 s); then {CROWD} leave at once",
    "stream",
    (
        Column("streamed_median_ms", "streamed, median ms", 2),
        Column("streamed_max_ms", "max", 2),
        Column("waiting_median_ms", "waiting, median ms", 2),
        Column("waiting_max_ms", "max", 2),
        Column("streamed_unheard", "streamed, unheard"),
        Column("waiting_unheard", "waiting, unheard"),
        Column("left_at_engine", f"of {CROWD}: left at the engine"),
        Column("left_in_flight", "left in flight"),
    ),
    leaving,
    who="gateways",
    once=True,
)
QUEUED = Scenario(
    "queued",
    f"from a queued caller's leaving to an empty queue, {TIMES} times",
    "stream",
    (
        Column("median_ms", "median ms", 2),
        Column("max_ms", "max ms", 2),
        Column("unheard", "not within 3 s"),
        Column("reached_engine", "sent all the same"),
    ),
    queued,
    who="ours",
    once=True,
)
