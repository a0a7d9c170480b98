"""The window of bulk calls that is learned: what bulk callers get of their direct rate, and what it costs a person."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from sage_inference.control_plane.embedding.learned_window import (
    COMPANY,
    COMPANY_S,
    LEVELS,
    START,
    Climb,
    LearnedWindow,
)
from sage_inference.replay.events import Events
from tests.control_plane.embedding.engines import Caller, House, Stages, Work, vllm

Engine = Callable[[Events, random.Random], Work]
SHAPES = [(4, 32, 500), (16, 32, 500), (16, 20, 300), (40, 32, 100)]


def stages(*each: tuple[float, float], noise: float = 0.0) -> Engine:
    return lambda events, rng: Stages(events, each, rng, noise)


SERIAL = stages((2, 0.005))
ENGINES = {
    "vllm": vllm,
    "serial": SERIAL,
    "two stages": stages((2, 0.005), (2, 0.003), noise=0.3),
    "six stages": stages(*[(2, 0.005)] * 6),
}


def both_ways(
    engine: Engine,
    callers: int,
    texts: int,
    tokens: int,
    seconds: float = 12.0,
    every_ms: float | None = None,
) -> tuple[House, list[Caller], list[Caller]]:
    """The house with the gateway, and its callers; the last ones are those of a run without it. Persons come last."""
    ran = []
    for gateway in (False, True):
        house = House(engine, gateway=gateway)
        made = [house.caller(texts, tokens, at_ms=0.5 * n) for n in range(callers)]
        if every_ms is not None:
            made.append(house.caller(1, 60, every_ms=every_ms, at_ms=37))
        house.run(seconds)
        ran.append(made)
    return house, ran[1], ran[0]


def rate(callers: Sequence[Caller], since: float = 2500.0) -> float:
    return sum(caller.texts_per_s(since) for caller in callers)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_bulk_callers_get_what_they_get_without_a_gateway(engine: str, shape: tuple[int, int, int]) -> None:
    house, ours, direct = both_ways(ENGINES[engine], *shape)
    assert rate(ours) >= 0.97 * rate(direct), house.windows


def test_a_request_of_many_calls_gets_what_it_gets_without_a_gateway() -> None:
    house, ours, direct = both_ways(vllm, 3, 256, 60)
    assert rate(ours) >= 0.97 * rate(direct), house.windows


@pytest.mark.parametrize("shape", [(64, 1, 128), (32, 8, 100), (120, 1, 20)], ids=str)
def test_small_requests_gain_by_sharing_calls(shape: tuple[int, int, int]) -> None:
    house, ours, direct = both_ways(vllm, *shape)
    texts = sum(len(caller.latencies) * caller.texts for caller in ours)
    assert rate(ours) >= 1.05 * rate(direct)
    assert texts >= 12 * house.calls


@pytest.mark.parametrize("engine", ["vllm", "serial", "two stages"])
def test_a_person_passes_endless_bulk(engine: str) -> None:
    _, ours, direct = both_ways(ENGINES[engine], 16, 32, 500, seconds=30.0, every_ms=100.0)
    assert ours[-1].p99(2500) <= 0.35 * direct[-1].p99(2500)
    assert rate(ours[:-1]) >= 0.93 * rate(direct[:-1])


@pytest.mark.parametrize("engine", ["vllm", "serial"])
def test_a_person_passes_the_bulk_of_few_callers(engine: str) -> None:
    _, ours, direct = both_ways(ENGINES[engine], 8, 32, 500, seconds=20.0, every_ms=50.0)
    assert ours[-1].p99(2500) <= 0.35 * direct[-1].p99(2500)
    assert rate(ours[:-1]) >= 0.93 * rate(direct[:-1])


def test_the_window_is_small_while_interactive_requests_come() -> None:
    house = House(vllm)
    for n in range(20):
        house.caller(32, 500, at_ms=n)
    person = house.caller(1, 60, every_ms=200.0, at_ms=10_000)
    house.run(9.9)
    assert START in {calls for _, calls in house.windows}
    assert house.window.learned.calls > COMPANY
    house.run(5.0)
    assert house.window.learned.calls == COMPANY
    person.stopped = True
    house.run(COMPANY_S + 3)
    assert house.window.learned.calls > COMPANY


def climbed(
    rate_at: Callable[[int], float], start: int = START, noise: float = 0.0, up: float = 0.25
) -> list[int]:
    """The levels at which periods went on, the trials among them."""
    climb = Climb(start, up=up, down=0.05)
    rng = random.Random(5)
    levels = []
    for _ in range(600):
        levels.append(climb.calls)
        climb.measured(rate_at(climb.calls) * rng.uniform(1 - noise, 1 + noise))
    return levels


def at_last(levels: list[int]) -> int:
    return max(set(levels[-200:]), key=levels[-200:].count)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(("pays", "least", "most"), [(2, 2, 4), (5, 4, 8), (10, 8, 12), (99, 12, 16)])
def test_a_climb_finds_as_many_calls_as_pay(pays: int, least: int, most: int, noise: float) -> None:
    for start in (LEVELS[0], 4):
        assert least <= at_last(climbed(lambda calls: min(calls, pays), start, noise)) <= most


def test_a_climb_falls_where_more_calls_harm_and_stays_where_nothing_shows() -> None:
    assert at_last(climbed(lambda calls: 100 / calls, LEVELS[-1])) == LEVELS[0]
    alone = Climb(LEVELS[-1], up=0.0, down=-0.15)
    for _ in range(300):
        alone.measured(100.0)
    assert alone.calls in LEVELS[-2:]
    levels = climbed(lambda calls: 100.0, 4, noise=0.2)
    assert all(2 <= level <= 5 for level in levels)


def test_trials_become_rare_while_nothing_changes() -> None:
    levels = climbed(lambda calls: min(calls, 4))
    assert sum(level != 4 for level in levels[300:]) < 0.15 * 300


def test_a_window_that_does_not_decide_learns_nothing() -> None:
    window = LearnedWindow()
    for n in range(100):
        window.finished(100, n / 10, 4)
        if n % 5 == 4:
            window.interrupted()  # nothing waited
    assert (window.rate, window.calls) == (None, START)


def test_a_rate_is_that_of_the_calls_after_the_window_changed() -> None:
    window = LearnedWindow(batches_known=True)
    for n in range(2):
        window.finished(10**9, n / 10, 2)
    assert window.rate is None
    for n in range(8):
        window.finished(100, 0.1 + (n + 1) / 10, 2)
    assert window.rate == pytest.approx(1000)
