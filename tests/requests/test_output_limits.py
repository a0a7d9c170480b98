"""The limits on what a request may ask an engine to generate."""

from __future__ import annotations

import json

import pytest

from sage_inference.config.settings import LimitSettings
from sage_inference.requests.output_limits import asked_output
from sage_inference.requests.rejection import Rejection

LIMITS = LimitSettings(max_n=2, max_completion_tokens=100)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 3),
        ("best_of", 3),
        ("max_tokens", 101),
        ("max_completion_tokens", 10**400),
        ("max_output_tokens", 100.5),
        ("n", "3"),
    ],
)
def test_what_asks_for_more_is_refused_and_the_field_named(name: str, value: object) -> None:
    with pytest.raises(Rejection) as refused:
        asked_output(json.dumps({name: value}).encode(), LIMITS)
    assert refused.value.param == name


def test_of_a_field_given_twice_the_last_counts() -> None:
    with pytest.raises(Rejection):
        asked_output(b'{"n": 1, "n": 3}', LIMITS)


def test_what_msgspec_is_too_strict_for_is_checked_too() -> None:
    with pytest.raises(Rejection):
        asked_output(b'{"n": 3, "\\ud800": 1}', LIMITS)


@pytest.mark.parametrize(
    "asked",
    [{}, {"n": 2, "max_tokens": 100}, {"n": None}, {"n": "many"}, {"max_tokens": []}, {"stop": "n"}],
)
def test_what_asks_for_no_more_passes(asked: dict[str, object]) -> None:
    asked_output(json.dumps(asked).encode(), LIMITS)


def test_a_limit_that_is_not_set_limits_nothing() -> None:
    asked_output(b'{"n": 1000}', LimitSettings(max_completion_tokens=1))


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, 0),
        ({"max_tokens": 100}, 100),
        ({"max_tokens": "100"}, 100),
        ({"max_tokens": 100, "max_completion_tokens": 20}, 100),
        ({"max_output_tokens": 7}, 7),
        ({"n_predict": -1}, 0),
        ({"max_tokens": None}, 0),
        ({"max_tokens": "many"}, 0),
        ({"max_tokens": -5}, 0),
        ({"max_tokens": 10**400}, 1 << 31),
        ({"max_tokens": 1e300}, 1 << 31),
        ({"x": {"max_tokens": 9}}, 0),
    ],
)
def test_the_tokens_that_a_body_asks_for_are_found(asked: dict[str, object], tokens: int) -> None:
    assert asked_output(json.dumps(asked).encode(), LimitSettings()) == tokens


def test_what_is_no_object_asks_for_nothing() -> None:
    assert asked_output(b"[1]", LIMITS) == 0
