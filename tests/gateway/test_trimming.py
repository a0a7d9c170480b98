"""Memory goes back to the system when a crowd has left, and is left alone otherwise."""

from __future__ import annotations

from sage_inference.gateway.trimming import Trimming


def trims(*connections: int) -> list[str]:
    """What is done while there are so many connections, second by second."""
    calls: list[str] = []

    def trim(pad: int) -> int:
        calls.append("trim")
        return 1

    trimming = Trimming(lambda: calls.append("shrink"), trim)
    for count in connections:
        trimming.tick(count)
    return calls


def test_memory_is_given_back_once_when_a_crowd_has_left() -> None:
    assert trims(10, 1000, 900, 600, 0, 0, 10, 0) == ["shrink", "trim"]
    assert trims(1000, 200, 90, 0) == ["shrink", "trim"]
    assert trims(1000, 0, 1000, 0, 0) == ["shrink", "trim"] * 2


def test_it_is_given_back_a_tick_after_it_was_let_go_of() -> None:
    assert trims(1000, 0) == ["shrink"]


def test_few_connections_are_no_crowd() -> None:
    assert trims(0, 100, 0, 200, 10, 0) == []


def test_the_systems_own_call_is_harmless() -> None:
    trimming = Trimming(lambda: None)
    for connections in (1000, 0, 0):
        trimming.tick(connections)
