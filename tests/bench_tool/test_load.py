"""When requests are sent: open loops by the clock alone, closed ones by the answers."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.ceiling import echo
from sage_inference.bench.load import poisson, replay
from sage_inference.bench.plan import Closed, Open, Replay
from sage_inference.bench.precise_timer import PreciseTimer
from sage_inference.bench.trace import TraceRow
from tests.bench_tool.driving import in_loop, measured, plan
from tests.support.rogue import RogueEngine, Wire, ok

GOOD = '{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_callers() -> None:
    gaps = [later - earlier for earlier, later in pairwise(islice(poisson(50.0, Random(3)), 20_000))]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.03)  # of an exponential, the mean


@given(times=st.lists(st.floats(0, 1e7), min_size=1), speedup=st.floats(0.01, 1000))
def test_a_replay_keeps_the_gaps_of_its_trace_at_its_speed(times: list[float], speedup: float) -> None:
    rows = [TraceRow(moment, 1, 1) for moment in sorted(times)]
    found = list(replay(rows, speedup))
    assert found[0] == 0
    assert found == pytest.approx([(row.t_ms - rows[0].t_ms) / 1000 / speedup for row in rows])


def test_an_alarm_rings_soon_after_its_moment_and_never_before() -> None:
    async def work() -> list[float]:
        loop, rang, late = asyncio.get_running_loop(), asyncio.Event(), []
        alarm = PreciseTimer(loop, rang.set)
        for number in range(50):
            rang.clear()
            moment = time.monotonic() + number * 0.0003
            alarm.set(time.monotonic() + 60)  # which the next one replaces
            alarm.set(moment)
            await rang.wait()
            late.append(time.monotonic() - moment)
        alarm.close()
        return late

    late = in_loop(work)
    assert min(late) >= 0
    # A quarter, because a busy machine may be late for the rest; a loop's own timers have whole milliseconds.
    assert statistics.quantiles(late, n=4)[0] < 0.0005


def test_an_open_loop_sends_at_its_moments_though_no_answer_comes() -> None:
    """The law that closed loops break: the server's silence holds nothing back."""

    def silent_until_told(wire: Wire) -> None:
        engine.go.wait(20)
        ok(GOOD)(wire)

    def release() -> None:
        while len(engine.requests) < 41:
            engine.arrived.get(timeout=20)
        engine.go.set()

    with RogueEngine(ok(GOOD), silent_until_told) as engine:
        waiter = threading.Thread(target=release)
        waiter.start()
        report = measured(plan(engine.port, Open(400.0), requests=40))
        waiter.join(20)
    # All 40 had arrived before the first of them was answered, or none would have been.
    assert (report.total.sent, report.total.ok) == (40, 40)
    assert report.own.connections == 40


def test_an_open_loop_sends_nothing_before_its_moment() -> None:
    arrived: list[float] = []

    def notes(wire: Wire) -> None:
        arrived.append(time.monotonic())
        ok(GOOD)(wire)

    with RogueEngine(notes) as engine:
        began = time.monotonic()
        measured(plan(engine.port, Open(100.0), requests=60))
    measured_ones = sorted(arrived[1:])
    due = islice(poisson(100.0, Random(0)), 60)
    assert all(at >= began + moment for at, moment in zip(measured_ones, due, strict=True))


def test_latency_counts_from_the_scheduled_moment_when_a_server_stalls() -> None:
    """No coordinated omission: a stall of 0.4 s is charged to every request that was due in it."""
    stall_s, rate = 0.4, 200.0
    held = threading.Lock()

    def stalls_once(wire: Wire) -> None:
        with held:
            if len(engine.requests) == 2:  # the first that is measured; one was a try
                time.sleep(stall_s)
        ok(GOOD)(wire)

    with RogueEngine(stalls_once) as engine:
        report = measured(plan(engine.port, Open(rate), duration_s=2 * stall_s))
    e2e = report.total.e2e
    assert e2e is not None
    # Due throughout the stall, they waited 0.2 s on average: half of all, where a closed loop has one.
    assert e2e.p50 < e2e.p90
    assert e2e.p90 > 0.5 * stall_s * 1000
    assert e2e.max >= 0.9 * stall_s * 1000
    assert report.total.sent == sum(
        moment < 2 * stall_s for moment in islice(poisson(rate, Random(0)), 10_000)
    )


def test_a_closed_loop_has_never_more_under_way_than_told() -> None:
    now = most = 0
    lock = threading.Lock()

    def counts(wire: Wire) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if most < 5:
            engine.go.wait(0.05)  # lets others come, if they may
        with lock:
            now -= 1
        ok(GOOD)(wire)

    with RogueEngine(counts) as engine:
        report = measured(plan(engine.port, Closed(5), requests=60))
        assert len(engine.requests) == 61
    assert most == 5
    assert report.own.connections == 5
    assert (report.total.sent, report.total.ok) == (60, 60)


def test_a_closed_loop_without_a_server_does_not_spin() -> None:
    with RogueEngine(ok(GOOD)) as engine:
        stop = threading.Timer(0.3, engine.refuse)
        stop.start()
        report = measured(plan(engine.port, Closed(4), duration_s=1.0))
        stop.join()
    assert report.total.errors["refused"].count <= 4 * 10
    assert report.total.sent == report.total.ok + report.total.failed


def test_time_is_up_by_the_clock_though_the_loop_has_no_time_for_its_timers() -> None:
    """A thousand answers at once and more keep uvloop from its timers for seconds."""
    with echo() as port:
        report = measured(plan(port, Closed(2000), duration_s=0.5))
    assert report.total.e2e is not None
    assert report.total.requests_per_s * 0.5 >= report.total.sent - 2000 - 1


def test_a_replay_sends_every_row_with_its_lengths() -> None:
    rows = [TraceRow(0, 3, 7), TraceRow(100, 5, 9), TraceRow(100, 600, 11, (1, 2))]
    with RogueEngine(ok(GOOD)) as engine:
        report = measured(plan(engine.port, Replay(rows, 10.0)))
        bodies = [request.partition(b"\r\n\r\n")[2] for request in engine.requests[1:]]
    assert report.total.ok == 3
    found = sorted((len(body.split(b'"content":"')[1].split()), body) for body in bodies)
    assert [words for words, _ in found] == [3, 5, 600]
    assert [
        (b'"max_tokens":%d,' % row.out_tokens) in body for row, (_, body) in zip(rows, found, strict=True)
    ] == [True] * 3
