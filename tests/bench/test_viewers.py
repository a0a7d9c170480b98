"""The conclusions of the bench of viewers, and a short run of it."""

from __future__ import annotations

import pytest

from tests.bench.commands.viewers import _rows
from tests.bench.viewers.flat import Memory
from tests.bench.viewers.scene import scene


@pytest.mark.parametrize(("mib_a_minute", "slope"), [(0.0, 0.0), (0.5, 30.0)])
def test_memory_that_grows_has_a_slope_and_its_warm_up_counts_for_nothing(
    mib_a_minute: float, slope: float
) -> None:
    minutes = range(40)
    grown = Memory([(60.0 * at, 20.0 if at < 10 else 60 + mib_a_minute * at) for at in minutes])
    assert grown.slope_mib_per_hour == pytest.approx(slope, abs=0.01)
    assert (grown.growth > 1.05) == (slope > 0)


def test_bounds_are_compared_with_the_difference_and_the_ratios() -> None:
    [(_, cost, _, held)] = _rows("idle", {"core_pct": 0.4}, {"core_pct": 1.0})
    assert (round(cost, 3), held) == (0.6, False)
    [(_, rate, _, held)] = _rows("streams", {"requests_per_s": 1000}, {"requests_per_s": 995})
    assert (rate, held) == (0.995, True)
    [(_, late, _, held)] = _rows("paced", {"took_p99_us": 100}, {"took_p99_us": 104})
    assert (late, held) == (1.04, False)


def test_viewers_watch_while_callers_are_served() -> None:
    with scene() as made, made.viewers(3):
        found = made.paced(0.5)
    assert found["requests"]
    assert found["failures"] == 0
    assert made.engine_pid
