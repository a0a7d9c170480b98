"""The modelled process in front of the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_inference.replay.events import Events
from sage_inference.replay.front_end import FrontEnd
from sage_inference.simulator.timing import USUAL


def read_at(requests: int, *, read_ms: float = 1.0, request_ms: float = 0.0, **writes: float) -> list[float]:
    """The times at which requests of one moment have been read."""
    events, times = Events(), replace(USUAL, read_ms=read_ms, request_ms=request_ms, write_ms=0.05)
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
    [at] = read_at(1, request_ms=20.0)
    assert at == pytest.approx(21.0, abs=0.3)


def test_requests_of_one_moment_share_the_time() -> None:
    at = read_at(100)
    assert at[-1] == pytest.approx(100.0, rel=0.02)  # all the work there is
    assert at[0] > 70.0  # none is read long before the others
    assert at == sorted(at)


def test_tokens_that_are_written_leave_less_for_reading() -> None:
    quiet, busy = read_at(10)[-1], read_at(10, tokens=60, step_ms=6.0)[-1]
    assert busy == pytest.approx(2 * quiet)
    assert read_at(10, tokens=1000, step_ms=6.0)[-1] == pytest.approx(quiet / 0.02)  # it never stands still


def test_without_work_nothing_waits() -> None:
    assert read_at(3, read_ms=0.0, tokens=100, step_ms=5.0) == [0.0] * 3
