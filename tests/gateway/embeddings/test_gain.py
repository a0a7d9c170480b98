"""What merging gains on an engine that batches nothing itself: the benchmark's own scenario, in small."""

from __future__ import annotations

from tests.bench.merging import scenarios


def test_many_callers_are_served_faster_than_straight_by_the_engine_and_in_few_calls() -> None:
    # Slow, so that the engine is the limit of both sides even where other processes take the CPU.
    with scenarios.engine("serial", "--speed", "0.25") as engine:
        rows = scenarios.many_callers(
            "serial", engine.url, engine.model, lambda: int(engine.stats()["calls"]), 0.6
        )
    assert all(row.holds for row in rows), rows
