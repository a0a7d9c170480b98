"""Percentiles are values that were measured, at the rank that their name says."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.samples import PER_MILLE, nearest_rank, samples, summary

SECONDS = st.lists(st.floats(0, 1000), min_size=1, max_size=300)


@given(values=SECONDS, per_mille=st.integers(1, 1000))
def test_so_many_do_not_exceed_a_percentile_and_fewer_stay_under_it(
    values: list[float], per_mille: int
) -> None:
    found = nearest_rank(sorted(values), per_mille)
    assert found in values
    assert sum(value <= found for value in values) * 1000 >= per_mille * len(values)
    assert sum(value < found for value in values) * 1000 < per_mille * len(values)


@pytest.mark.parametrize(("name", "value"), [("p50", 500.0), ("p90", 900.0), ("p99", 990.0), ("p999", 999.0)])
def test_of_1_to_1000_each_percentile_is_its_number(name: str, value: float) -> None:
    found = summary(array("d", [number / 1000 for number in range(1000, 0, -1)]))
    assert found is not None
    assert getattr(found, name) == pytest.approx(value)
    assert (found.count, found.max) == (1000, 1000.0)
    assert found.mean == pytest.approx(500.5)


@given(values=SECONDS)
def test_percentiles_rise(values: list[float]) -> None:
    found = summary(array("d", values))
    assert found is not None
    row = [getattr(found, name) for name in PER_MILLE]
    assert [*row, found.max] == sorted([*row, found.max])


def test_nothing_measured_has_no_summary() -> None:
    assert summary(samples()) is None
