"""The modelled process in front of the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_inference.replay.events import Events
from sage_inference.replay.front_end import FrontEnd
from sage_inference.simulator.timing import USUAL


def read_at(
    requests: int, *, read_ms: float = 1.0, request_ms: float = 0.0, turns: int = 1, **writes: float
) -> list[float]:
    """The times at which requests of one moment have been read."""
    events = Events()
    times = replace(USUAL, read_ms=read_ms, request_ms=request_ms, write_ms=0.05, turns=turns)
    front_end, read = FrontEnd(events, times), []
    if writes:
        front_end.writes(int(writes["tokens"]), writes["step_ms"])
    for _ in range(requests):
        front_end.read(lambda: read.append(events.now))
    while events.step():
        pass
    assert len(read) == requests
    return read


def test_a_request_alone_takes_its_own_time() -> None:
    for turns in (1, 2, 8):
        assert read_at(1, request_ms=20.0, turns=turns) == pytest.approx([21.0])


def test_requests_of_one_moment_are_read_one_after_the_other() -> None:
    assert read_at(100) == pytest.approx([float(place + 1) for place in range(100)])


def test_requests_that_are_read_in_turns_are_ready_together() -> None:
    at = read_at(100, turns=8)
    assert at[-1] == pytest.approx(100.0)  # all the work there is
    assert at[0] > 85.0  # none is read long before the others
    assert at == sorted(at)


def test_reading_goes_on_when_fewer_tokens_are_written() -> None:
    events, read = Events(), []
    front_end = FrontEnd(events, replace(USUAL, read_ms=1.0, write_ms=0.05))
    front_end.writes(1000, 6.0)
    for _ in range(3):
        front_end.read(lambda: read.append(events.now))
    events.at(25.0, lambda: front_end.writes(0, 6.0))
    while events.step():
        pass
    assert read == pytest.approx([25.5, 26.5, 27.5])  # half of the first one was read in the busy 25 ms


def test_tokens_that_are_written_leave_less_for_reading() -> None:
    quiet, busy = read_at(10)[-1], read_at(10, tokens=60, step_ms=6.0)[-1]
    assert busy == pytest.approx(2 * quiet)
    assert read_at(10, tokens=1000, step_ms=6.0)[-1] == pytest.approx(quiet / 0.02)  # it never stands still


def test_without_work_nothing_waits() -> None:
    assert read_at(3, read_ms=0.0, tokens=100, step_ms=5.0) == [0.0] * 3


def test_tokens_of_a_step_are_delivered_after_those_of_others_and_in_order() -> None:
    events, delivered = Events(), []
    front_end = FrontEnd(events, replace(USUAL, write_ms=0.05))

    def step(at: float, tokens: int) -> None:
        events.at(at, lambda: front_end.deliver(lambda: delivered.append((at, events.now))))
        events.at(at, lambda: front_end.writes(tokens, 8.0))

    front_end.writes(100, 8.0)
    for at, tokens in ((8.0, 20), (10.0, 0), (18.0, 0)):
        step(at, tokens)
    while events.step():
        pass
    assert delivered == [(8.0, 13.0), (10.0, 13.0), (18.0, 18.0)]
