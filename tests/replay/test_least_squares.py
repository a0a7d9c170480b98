"""Least squares with bounds and guesses."""

from __future__ import annotations

import pytest

from sage_inference.replay.least_squares import NormalEquations


def equations(*rows: tuple[tuple[float, ...], float]) -> NormalEquations:
    found = NormalEquations(len(rows[0][0]))
    found.add(rows)
    return found


def test_a_system_without_errors_is_solved() -> None:
    rows = [((a, b), 3.0 * a + 0.5 * b) for a, b in ((1.0, 9.0), (4.0, 1.0), (2.0, 20.0))]
    assert equations(*rows).solve((0.0, 0.0), 1e-9, (0.0, 0.0)) == pytest.approx([3.0, 0.5])


def test_rows_that_say_nothing_of_a_term_leave_its_guess() -> None:
    found = equations(*[((2.0, 0.0), 8.0)] * 20)
    assert found.solve((1.0, 7.0), 0.1, (0.0, 0.0)) == pytest.approx([4.0, 7.0], rel=0.1)
    assert found.known(0.1) == pytest.approx([1.0, 0.0], abs=0.1)


def test_terms_that_always_come_together_keep_the_ratio_of_their_guesses() -> None:
    found = equations(*[((2.0, 2.0), 12.0)] * 50).solve((1.0, 1.0), 0.01, (0.0, 0.0))
    assert found == pytest.approx([3.0, 3.0], rel=0.01)


def test_no_coefficient_is_below_its_least() -> None:
    rows = [((1.0, 1.0), 2.0), ((1.0, 3.0), 1.0), ((1.0, 5.0), 0.2)]
    first, second = equations(*rows).solve((0.0, 0.0), 1e-6, (0.0, 0.05))
    assert second == 0.05
    assert first >= 0.0
