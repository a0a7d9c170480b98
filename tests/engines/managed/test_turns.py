"""One start at a time on a GPU."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_inference.engines.managed.turns import ALL, Turns


class Asked:
    def __init__(self) -> None:
        self.turns = Turns()
        self.came: list[str] = []

    def take(self, name: str, *gpus: str) -> None:
        self.turns.take(name, gpus, lambda: self.came.append(name))


def test_engines_on_one_gpu_start_one_after_the_other() -> None:
    asked = Asked()
    asked.take("a", "0")
    asked.take("b", "0")
    asked.take("c", "1")
    assert asked.came == ["a", "c"]
    assert asked.turns.blocker("b") == "a"
    asked.turns.give("a")
    assert asked.came == ["a", "c", "b"]


def test_an_engine_whose_gpu_is_not_chosen_waits_for_all() -> None:
    asked = Asked()
    asked.take("a", "0")
    asked.take("b", ALL)
    asked.take("c", "1")  # must not pass b, or b could wait for ever
    assert asked.came == ["a"]
    asked.turns.give("a")
    assert asked.came == ["a", "b"]
    asked.turns.give("b")
    assert asked.came == ["a", "b", "c"]


def test_an_engine_without_a_gpu_never_waits() -> None:
    asked = Asked()
    asked.take("a", ALL)
    asked.take("b")
    assert asked.came == ["a", "b"]


def test_a_stop_holds_its_gpus_at_once_and_keeps_starts_away() -> None:
    asked = Asked()
    asked.take("a", "0")
    asked.turns.hold("b", ["0"])  # a stop does not wait for a neighbour's start
    asked.take("c", "0")
    asked.turns.give("a")
    assert asked.came == ["a"]
    asked.turns.give("b")
    assert asked.came == ["a", "c"]


def test_one_that_gave_up_waits_no_more() -> None:
    asked = Asked()
    asked.take("a", "0")
    asked.take("b", "0")
    asked.turns.give("b")
    asked.turns.give("a")
    assert asked.came == ["a"]
    assert not asked.turns.holds("b")


GPUS = st.lists(st.sampled_from(["0", "1", ALL]), max_size=2)
MOVES = st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), GPUS)), max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(MOVES)
def test_no_two_starts_share_a_gpu_and_everybody_gets_a_turn(
    moves: list[tuple[str, list[str] | None]],
) -> None:
    turns, starting = Turns(), dict[str, frozenset[str]]()

    def come(name: str, gpus: list[str]) -> None:
        mine = frozenset(gpus)
        for other in starting.values():
            assert not mine & other
            assert not (mine and other and (ALL in mine or ALL in other))
        starting[name] = mine

    wanted = set()
    for name, gpus in moves:
        starting.pop(name, None)
        wanted.discard(name)
        if gpus is None:
            turns.give(name)
        else:
            turns.give(name)
            wanted.add(name)
            turns.take(name, gpus, lambda name=name, gpus=gpus: come(name, gpus))  # type: ignore[misc]
    served = set(starting)
    while starting:
        name = next(iter(starting))
        del starting[name]
        turns.give(name)
        served |= set(starting)
    assert wanted <= served
