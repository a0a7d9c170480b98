"""Lengths are drawn as written, and nonsense is named."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.distribution import parse
from sage_inference.bench.errors import OptionError


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("128", 128),
        ("uniform:10-30", 20),
        ("normal:200,5", 200),
        ("exponential:100", 100),
        ("lognormal:100,0", 100),
    ],
)
def test_the_mean_of_many_is_that_of_the_distribution(text: str, mean: float) -> None:
    random = Random(1)
    drawn = [parse(text, "--input-tokens").draw(random) for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.06)


@given(
    seed=st.integers(), text=st.sampled_from(["normal:1,50", "exponential:1", "lognormal:1,5", "uniform:1-2"])
)
def test_no_length_is_under_1(seed: int, text: str) -> None:
    assert parse(text, "--texts").draw(Random(seed)) >= 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "0", "-3", "1.5", "uniform:9", "uniform:9-3", "normal:5", "normal:nan,1", "normal:inf,1"),
        *("normal:5,-1", "exponential:0", "lognormal:5,9", "zipf:3", "uniform:1-2-3"),
    ],
)
def test_nonsense_names_the_option_and_what_was_given(text: str) -> None:
    with pytest.raises(OptionError) as error:
        parse(text, "--texts")
    assert str(error.value).startswith(f'--texts: "{text}" is not ')
