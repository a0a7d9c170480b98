"""Engines that pad: texts of about one length share a call, where what that saves is worth another call."""

from __future__ import annotations

import math

import pytest

from sage_inference.control_plane.embedding import AggregationRules, CallLimits
from sage_inference.control_plane.embedding.padding import LEAST_TOKENS, CallCost
from tests.control_plane.embedding.world import SimulatedCaller, World


def _learned(*calls: tuple[int, float], times: int = 10) -> float:
    cost = CallCost()
    for tokens, seconds in calls * times:
        cost.learn(tokens, seconds)
    return cost.call_in_tokens


def _world(padding: float) -> World:
    limits = CallLimits(pads=True, padding=padding, tokens=10**6)
    return World({"only": limits}, AggregationRules(max_texts=4))


def _lengths(world: World) -> list[list[int]]:
    """Of the texts of each call; a text counts its quotes."""
    return [[len(raw) - 2 for raw in sent.texts] for sent in world.sent]


def _arrive(world: World, *lengths: int) -> None:
    """As one caller each; first two texts that the engine is busy with."""
    for number, length in enumerate((1, 1, *lengths)):
        world.arrive(SimulatedCaller([f"{number:x}".ljust(length, "x")]))
        if number < 2:
            world.pump()


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_time_that_no_call_can_have_taken_teaches_nothing(nonsense: float) -> None:
    calls = (100, 0.02), (1000, 0.11)
    assert _learned(*calls, (500, nonsense)) == _learned(*calls)


def test_what_a_call_costs_beside_its_tokens_is_learned() -> None:
    # 10 ms a call and 0.1 ms a token.
    assert _learned((100, 0.020), (400, 0.050)) == pytest.approx(100)


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param((), id="no call yet"),
        pytest.param(((100, 0.020),), id="all of one size"),
        pytest.param(((100, 0.020), (400, 0.020)), id="tokens cost nothing"),
    ],
)
def test_padding_is_not_minded_while_nothing_says_that_it_costs(calls: tuple[tuple[int, float], ...]) -> None:
    assert _learned(*calls) > 10**9


def test_a_call_is_never_taken_to_be_free() -> None:
    assert _learned((100, 0.010), (400, 0.040)) == LEAST_TOKENS


def test_a_call_takes_texts_of_about_the_length_of_the_first_in_line() -> None:
    world = _world(padding=6)
    _arrive(world, 20, 90, 22, 5, 19, 91)
    world.run()
    assert _lengths(world)[2:] == [[20, 22, 19], [90, 91], [5]]


def test_texts_of_any_length_share_a_call_where_padding_costs_nothing() -> None:
    world = _world(padding=math.inf)
    _arrive(world, 20, 90, 5, 40)
    world.run()
    assert _lengths(world)[2:] == [[20, 90, 5, 40]]


def test_a_request_that_is_alone_stays_whole() -> None:
    world = _world(padding=0)
    world.arrive(SimulatedCaller(["short", "a longer one", "mid size"]))
    world.pump()
    assert len(world.sent) == 1


def test_what_was_left_out_for_its_length_does_not_go_beyond_two_calls_at_once() -> None:
    world = _world(padding=0)
    for length in range(1, 21):
        world.arrive(SimulatedCaller(["x" * length]))
    world.pump()
    assert len(world.sent) == 2
    world.run()
    assert sum(map(len, _lengths(world))) == 20


def test_bulk_requests_take_turns_by_length_too() -> None:
    world = _world(padding=3)
    for name in "abc":
        world.arrive(SimulatedCaller([name + "x" * n for n in range(12)]))
    world.pump()
    world.run()
    assert [sent.texts[0][1:2] for sent in world.sent][:3] == [b"a", b"b", b"c"]
