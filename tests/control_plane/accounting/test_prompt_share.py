"""The share of an instance's time that prompts may take, measured from the streams that end on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.accounting.prompt_share import (
    DOWN,
    LEAST,
    MOST,
    UP,
    stepped,
    stepped_by_several,
)
from sage_inference.types import PROMPT_SHARE, InstanceLoad, Slo, Usage
from tests.control_plane.parts import EMBED, Clock, instance, manager, request, submit


def share_after(
    tpot_ms: float,
    tokens: int = 101,
    *,
    slo: Slo | None = None,
    streams: bool = True,
    route: str | None = None,
    stalled: bool = False,
    lost: bool = False,
    choices: int = 1,
) -> float:
    """The share of an instance on which one answer ended whose tokens took so long each."""
    clock, only = Clock(), instance("a", route=route or "/v1/chat/completions")
    m = manager(only, clock=clock)
    what = request(0, arrived=clock.now, streams=streams, route=route or "/v1/chat/completions")
    submission = submit(m, what)
    what.slo, what.choices = slo, choices
    clock.now += 0.1
    if streams:
        m.first_byte(submission)
    if stalled:
        m.stalled(1.0)
    if lost:
        m.instance_down(only)
    clock.now += tpot_ms * (tokens - 1) / 1000
    m.release(submission, Usage(0, tokens))
    return only.load.prompt_share


def test_it_rises_a_step_for_a_stream_well_under_its_slo() -> None:
    assert share_after(19.0) == pytest.approx(PROMPT_SHARE + UP)


def test_it_falls_six_steps_for_a_stream_over_its_slo() -> None:
    assert share_after(51.0) == pytest.approx(PROMPT_SHARE - DOWN)
    assert pytest.approx(6 * UP) == DOWN


def test_a_stream_a_little_under_its_slo_changes_nothing() -> None:
    assert share_after(40.0) == PROMPT_SHARE


def test_the_slo_is_that_of_the_request() -> None:
    assert share_after(19.0, slo=Slo(1000.0, 10.0)) < PROMPT_SHARE
    assert share_after(51.0, slo=Slo(1000.0, 200.0)) > PROMPT_SHARE


@pytest.mark.parametrize(
    "what",
    [
        {"tokens": 7},
        {"tokens": 1},
        {"streams": False},
        {"route": EMBED},
        {"stalled": True},
        {"lost": True},
    ],
    ids=str,
)
def test_an_answer_that_shows_no_stream_s_pace_changes_nothing(what: dict[str, object]) -> None:
    assert share_after(500.0, **what) == PROMPT_SHARE  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=400))
def test_it_stays_within_its_bounds(ended: list[tuple[float, float]]) -> None:
    share = InstanceLoad().prompt_share
    for took_ms, slo_ms in ended:
        share = stepped(share, took_ms, slo_ms)
        assert LEAST <= share <= MOST


@given(misses=st.integers(0, 40))
def test_streams_that_keep_their_slo_bring_back_any_share(misses: int) -> None:
    share = PROMPT_SHARE
    for _ in range(misses):
        share = stepped(share, 60.0, 50.0)
    for _ in range(60):
        share = stepped(share, 10.0, 50.0)
    assert share == pytest.approx(MOST)


def test_a_few_bad_answers_do_not_count_for_ever() -> None:
    """Engines whose steps take half of the SLO give no answer that is well under it."""
    share = PROMPT_SHARE
    for _ in range(10):
        share = stepped(share, 51.0, 50.0)
    assert share == LEAST
    for _ in range(1000):
        share = stepped(share, 30.0, 50.0)
    assert share == pytest.approx(PROMPT_SHARE, abs=0.001)


@pytest.mark.parametrize(
    ("choices", "token_ms", "change"),
    [
        (1, 12.0, UP),
        (4, 4.0, UP),  # 16 ms a token in each
        (4, 12.0, 0.0),  # 48 ms: over 0.4 of the SLO
        (4, 15.0, 0.0),  # 60 ms if they are equally long; 15 if all but one are empty
        (4, 51.0, -DOWN),  # over the SLO however the tokens are divided
        (2, 24.0, 0.0),
        (0, 4.0, 0.0),
        (0, 51.0, -DOWN),
        (100, 1.0, 0.0),  # too few tokens each
    ],
)
def test_a_stream_of_several_choices_counts_by_the_tokens_of_one(
    choices: int, token_ms: float, change: float
) -> None:
    assert share_after(token_ms, 401, choices=choices) == pytest.approx(PROMPT_SHARE + change)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=2, max_size=6),
    step_ms=st.floats(1.0, 120.0),
    share=st.floats(LEAST, MOST),
)
def test_several_choices_never_move_the_share_against_what_each_stream_got(
    lengths: list[int], step_ms: float, share: float
) -> None:
    """All choices get a token a step until they end."""
    longest, tokens = max(lengths), sum(lengths)
    took_ms = step_ms * (longest - 1)
    if tokens < 8 or longest < 2:
        return
    found = stepped_by_several(share, took_ms, tokens, len(lengths), 50.0)
    if step_ms > 50.0:
        assert found <= share
    if step_ms <= 50.0:
        assert found >= share
