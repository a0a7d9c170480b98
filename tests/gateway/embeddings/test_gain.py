"""What merging gains on an engine that batches nothing itself: the benchmark's own scenario, in small."""

from __future__ import annotations

from tests.bench.merging import scenarios


def test_many_callers_are_served_faster_than_straight_by_the_engine_and_in_few_calls() -> None:
    with scenarios.engine("serial") as engine:
        rows = scenarios.many_callers(
            "serial", engine.url, engine.model, lambda: int(engine.stats()["calls"]), 0.6
        )
    assert all(row.holds for row in rows), rows
