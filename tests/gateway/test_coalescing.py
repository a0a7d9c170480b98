"""Chunks of a stream that is too fast for any reader gather; all others go on as they come."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from sage_inference.gateway.relay import coalescing
from tests.support.decisions import attempts
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, sse
from tests.support.wire import Caller

ALONE = coalescing.WINDOW + 1  # the rate is known with the last of these
GATHERED = 5


def tell_time(g: InProcess, clock: Callable[[], float]) -> None:
    g.ask(lambda running: setattr(running.gateway.coalescer, "clock", clock))


def lockstep(number: int, last: bytes = b"") -> Callable[[Wire], None]:
    """So many chunks, each sent when the caller has the one before, and more at once behind the last."""

    def answer(wire: Wire) -> None:
        wire.send(sse("0"))
        for count in range(1, number):
            assert wire.engine.go.wait(20)
            wire.engine.go.clear()
            wire.send(chunk(b"%d" % count) + (last if count == number - 1 else b""))

    return answer


def test_chunks_of_a_fast_stream_gather_while_it_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "PAUSE_S", 0.3)

    def answer(wire: Wire) -> None:
        lockstep(ALONE + 1)(wire)
        assert wire.engine.go.wait(20)  # it is paused now
        wire.engine.go.clear()
        for count in range(GATHERED):
            wire.send(chunk(b"data: %d\n\n" % count))
        wire.engine.go.wait(20)
        wire.send(b"0\r\n\r\n")

    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        tell_time(g, lambda: 1.0)
        assert caller.chat("x-request-id: fast", stream=True).head().status == 200
        got = []
        while piece := caller.chunk():
            got.append(piece)
            engine.go.set()
        assert got[1 : ALONE + 1] == [b"%d" % count for count in range(1, ALONE + 1)]
        gathered = got[ALONE + 1 :]
        assert b"".join(gathered) == b"".join(b"data: %d\n\n" % count for count in range(GATHERED))
        assert len(gathered) < GATHERED
        [attempt] = attempts(g, "fast")
        assert attempt["completion_tokens"] == ALONE + GATHERED  # not the pieces


def test_a_stream_at_an_engines_pace_is_never_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalescing, "PAUSE_S", 1000.0)
    ticks = itertools.count(1.0, coalescing.WINDOW / coalescing.RATE)
    with (
        RogueEngine(lockstep(5 * ALONE, b"0\r\n\r\n")) as engine,
        gateway(engine) as g,
        Caller(g.port) as caller,
    ):
        tell_time(g, lambda: next(ticks))
        assert caller.chat(stream=True).head().status == 200
        pieces = 0
        while caller.chunk():
            pieces += 1
            engine.go.set()
        assert pieces == 5 * ALONE


def test_the_engine_of_a_paused_stream_hears_at_once_that_its_caller_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalescing, "PAUSE_S", 0.2)

    def answer(wire: Wire) -> None:
        lockstep(ALONE + 1)(wire)
        wire.wait_for_peer_to_leave()

    with RogueEngine(answer) as engine, gateway(engine) as g:
        tell_time(g, lambda: 1.0)
        with Caller(g.port) as caller:
            assert caller.chat(stream=True).head().status == 200
            for _ in range(ALONE + 1):
                assert caller.chunk()
                engine.go.set()
        engine.left.get(timeout=5)
        g.until(lambda running: not running.gateway.coalescer.any_paused)
        g.until(lambda running: running.gateway.in_flight == 0)


def test_a_fast_stream_is_read_as_it_comes_again_once_it_was_paused_long_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalescing, "PAUSES", 3)
    times = iter([1.0] * 5 + [1e9, 2e9, 3e9])  # fast at the second look, paused at it and the two after it
    with (
        RogueEngine(lockstep(40, b"0\r\n\r\n")) as engine,
        gateway(engine) as g,
        Caller(g.port) as caller,
    ):
        tell_time(g, lambda: next(times))
        assert caller.chat(stream=True).head().status == 200
        while caller.chunk():
            engine.go.set()
    # Looked at with chunk 1, 9 (fast), 10, 11, 12 (paused no more), 20, 28 and 36.
    assert next(times, None) is None
