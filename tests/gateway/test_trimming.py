"""Memory goes back to the system when a crowd has left, and is left alone otherwise."""

from __future__ import annotations

from sage_inference.gateway.trimming import Trimming


def trims(*connections: int) -> int:
    """How often memory is given back while there are so many connections, second by second."""
    calls: list[int] = []

    def trim(pad: int) -> int:
        calls.append(pad)
        return 1

    trimming = Trimming(trim)
    for count in connections:
        trimming.tick(count)
    return len(calls)


def test_memory_is_given_back_once_when_a_crowd_has_left() -> None:
    assert trims(10, 1000, 900, 600, 0, 0, 10, 0) == 1
    assert trims(1000, 200, 90, 0) == 1
    assert trims(1000, 0, 1000, 0) == 2


def test_few_connections_are_no_crowd() -> None:
    assert trims(0, 100, 0, 200, 10, 0) == 0


def test_the_systems_own_call_is_harmless() -> None:
    trimming = Trimming()
    trimming.tick(1000)
    trimming.tick(0)
