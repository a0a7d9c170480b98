"""Prompts have the length that is wanted, and share just what they should."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.text import BLOCK_TOKENS, WORDS, Prompts
from sage_inference.simulator.tokens import pieces

PROMPTS = Prompts(7, filler_tokens=4096)


@given(number=st.integers(0, 1 << 40), tokens=st.integers(1, 9000))
def test_a_prompt_has_as_many_words_as_tokens_were_wanted(number: int, tokens: int) -> None:
    text = PROMPTS.unique(number, tokens).decode()
    assert len(text.split()) == tokens == len(pieces(text))


def test_a_prompt_needs_no_escape_in_json() -> None:
    assert all(word.isascii() and word.isalpha() for word in WORDS)


def test_no_two_prompts_begin_alike() -> None:
    beginnings = {tuple(PROMPTS.unique(number, 16).split()[:4]) for number in range(5000)}
    assert len(beginnings) == 5000


def test_another_seed_makes_other_prompts() -> None:
    assert Prompts(8, filler_tokens=4096).unique(1, 16) != PROMPTS.unique(1, 16)


@given(
    ours=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    theirs=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_two_prompts_are_alike_as_far_as_their_blocks_are(ours: list[int], theirs: list[int]) -> None:
    size = 4 * BLOCK_TOKENS + 9
    one, other = PROMPTS.shared(ours, 1, size).split(), PROMPTS.shared(theirs, 2, size).split()
    blocks = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    same = min(len(ours), len(theirs)) if blocks is None else blocks
    assert len(one) == len(other) == size
    assert one[: same * BLOCK_TOKENS] == other[: same * BLOCK_TOKENS]
    assert one[same * BLOCK_TOKENS :][:4] != other[same * BLOCK_TOKENS :][:4]


def test_more_blocks_than_the_prompt_is_long_are_cut() -> None:
    assert len(PROMPTS.shared([1, 2, 3], 1, BLOCK_TOKENS + 5).split()) == BLOCK_TOKENS + 5
