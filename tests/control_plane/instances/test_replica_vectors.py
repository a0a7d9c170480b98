"""Replicas of an embedding model must give the same vectors."""

from __future__ import annotations

import pytest

from sage_inference.control_plane.instances.replica_vectors import LEAST_COSINE, VectorAgreement, cosine

A = [0.6, 0.8, 0.0]


def test_replicas_that_agree_are_let_in_and_one_that_differs_is_told_from_whom() -> None:
    agreement = VectorAgreement()
    assert agreement.check("m", "one", A) is None
    assert agreement.check("m", "two", [0.6, 0.8, 0.001]) is None
    assert "than one (cosine 0.9600)" in (agreement.check("m", "three", [0.8, 0.6, 0.0]) or "")
    assert not agreement.knows("m", "three")


def test_another_dimension_differs() -> None:
    agreement = VectorAgreement()
    agreement.check("m", "one", A)
    assert "4 dimensions for m, one of 3" in (agreement.check("m", "two", [*A, 0.0]) or "")


def test_one_that_drifts_is_out_and_back_when_it_agrees_again() -> None:
    agreement = VectorAgreement()
    for name in ("one", "two"):
        agreement.check("m", name, A)
    assert agreement.check("m", "one", [1.0, 0.0, 0.0]) is not None
    assert agreement.check("m", "one", A) is None


def test_one_alone_may_change_and_models_are_apart() -> None:
    agreement = VectorAgreement()
    for vector in (A, [1.0, 0.0]):
        assert agreement.check("m", "one", vector) is None
    assert agreement.check("n", "two", A) is None
    agreement.forget("one")
    assert agreement.check("m", "three", A) is None


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [(A, A, True), (A, [1.2, 1.6, 0.0], True), (A, [0.0, 0.0, 0.0], False), (A, [-0.6, -0.8, 0.0], False)],
)
def test_the_angle_counts_and_not_the_length(a: list[float], b: list[float], same: bool) -> None:
    assert (cosine(a, b) > LEAST_COSINE) is same


def test_a_vector_of_no_numbers_never_agrees() -> None:
    agreement = VectorAgreement()
    agreement.check("m", "one", A)
    assert agreement.check("m", "two", [float("nan")] * 3) is not None
