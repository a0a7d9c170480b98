"""The arithmetic of the report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import median, percentile, ratio, spread, summary

VALUES = st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("q", "expected"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.99, 4), (1.0, 4)]
)
def test_a_percentile_is_the_nearest_rank(q: float, expected: float) -> None:
    assert percentile([4, 1, 3, 2], q) == expected


@given(VALUES, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], q: float) -> None:
    found = percentile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values)
    assert sum(value < found for value in values) < q * len(values)


def test_the_p99_of_a_hundred_is_not_the_maximum() -> None:
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99


def test_figures_of_nothing_are_unknown() -> None:
    assert percentile([], 0.5) is None
    assert median([]) is None
    assert spread([None]) is None
    assert summary([], "delay") == {"delay_p50_us": None, "delay_p99_us": None, "delay_max_us": None}


def test_unknown_rounds_do_not_count() -> None:
    assert median([None, 3.0, 1.0]) == 2.0
    assert spread([None, 3.0, 1.0]) == (1.0, 3.0)


def test_a_ratio_to_nothing_is_unknown() -> None:
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(3.0, 0.0) is None
    assert ratio(3.0, None) is None
    assert ratio(None, 2.0) is None
    assert ratio(0.0, 2.0) == 0.0


def test_a_summary_is_in_microseconds() -> None:
    assert summary([1000.0, 3000.0, 2000.0], "delay") == {
        "delay_p50_us": 2.0,
        "delay_p99_us": 3.0,
        "delay_max_us": 3.0,
    }
