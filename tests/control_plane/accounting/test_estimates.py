"""How many tokens a prompt has, by its bytes, its kind of text, and what engines reported."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.accounting.estimates import Script, TokenEstimates, script_of

SCRIPTS = {
    "the quick brown fox " * 10: Script.ASCII,
    "Der Fluß führt über die Höhen, sagt er: schön. " * 10: Script.LATIN,
    "Быстрая лиса перепрыгнула через собаку. " * 10: Script.TWO_BYTE,
    "敏捷的棕色狐狸跳过了懒狗。" * 10: Script.THREE_BYTE,
    json.dumps("敏捷的棕色狐狸跳过了懒狗。" * 10): Script.ESCAPED,
    json.dumps(list(range(100, 400))): Script.TOKEN_IDS,
    'x: "data:image/png;base64,' + "iVBORw0KGgoAAAANSUhEUg" * 400 + '"': Script.MEDIA,
    "def f(x):\n    return x + 1\n" * 300: Script.ASCII,
    "敏捷的棕色狐狸跳过了懒狗。" * 300: Script.THREE_BYTE,
}


@pytest.mark.parametrize(
    ("text", "script"), SCRIPTS.items(), ids=[f"{s.name}-{len(t)}" for t, s in SCRIPTS.items()]
)
def test_kinds_of_text_are_told_apart(text: str, script: Script) -> None:
    assert script_of(text.encode()) == script


@given(st.binary(max_size=9000))
def test_any_bytes_are_some_kind(prompt: bytes) -> None:
    assert Script(script_of(prompt)) >= 0


def test_the_first_guess_is_four_bytes_a_token() -> None:
    assert TokenEstimates().tokens_per_byte("m", Script.ASCII) == 0.25


def test_reports_correct_the_guess_for_their_model_and_script_alone() -> None:
    estimates = TokenEstimates()
    for _ in range(200):
        estimates.learn("m", Script.THREE_BYTE, 1000, 500)
    assert estimates.tokens_per_byte("m", Script.THREE_BYTE) == pytest.approx(0.5, rel=0.02)
    assert estimates.tokens_per_byte("m", Script.ASCII) == 0.25
    assert estimates.tokens_per_byte("n", Script.THREE_BYTE) == 0.25


def test_an_engine_that_reports_nothing_teaches_nothing() -> None:
    estimates = TokenEstimates()
    estimates.learn("m", 0, 1000, 0)
    estimates.learn("m", 0, 0, 10)
    assert estimates.tokens_per_byte("m", 0) == 0.25


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=50))
def test_the_estimate_stays_between_the_least_and_the_most_that_was_seen(
    reports: list[tuple[int, int]],
) -> None:
    estimates = TokenEstimates()
    for size, tokens in reports:
        estimates.learn("m", 0, size, tokens)
    ratios = [0.25, *(tokens / size for size, tokens in reports)]
    assert min(ratios) * 0.999 <= estimates.tokens_per_byte("m", 0) <= max(ratios) * 1.001


def test_a_picture_is_not_taken_for_a_book() -> None:
    assert TokenEstimates().tokens_per_byte("m", Script.MEDIA) * 2**20 == 2048


def test_names_of_models_do_not_fill_memory() -> None:
    estimates = TokenEstimates()
    for number in range(5000):
        estimates.learn(f"adapter-{number}", 0, 100, 25)
    assert len(estimates._sums) <= 512
