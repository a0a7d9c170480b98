"""The pieces of answers that an engine sends, as a sign that it lives while its health check fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.config.settings import HealthSettings
from sage_inference.server import RunningGateway
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine
from tests.support.wire import CHAT, Caller, chat, post

JSON = "content-type: application/json"
HEALTH = HealthSettings(interval_s=0.05, timeout_s=0.2)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[SimulatedEngine, InProcess]]:
    with simulated_engine("vllm") as engine, gateway(engine, health=HEALTH) as g:
        yield engine, g


def due(g: InProcess) -> frozenset[tuple[int, float]]:
    return g.ask(lambda running: running.gateway.engines["e0"].pieces_due())


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}, {"logprobs": True}])
def test_pieces_move_the_mark_until_the_engine_stops_sending(
    shared: tuple[SimulatedEngine, InProcess], more: dict[str, Any]
) -> None:
    engine, g = shared
    with Caller(g.port) as caller:
        engine.faults(unhealthy=True)
        g.until(lambda running: running.gateway.engines["e0"].health.is_silent)
        g.until(lambda running: not running.gateway.engines["e0"].pieces_due())
        body = chat(model=engine.model, stream=True, max_tokens=4000, ignore_eos=True, **more)
        caller.send(post(CHAT, body, JSON))
        g.until(lambda running: len(running.gateway.engines["e0"].pieces_due()) == 1)
        seen = due(g)

        def moved(running: RunningGateway) -> bool:
            return bool(running.gateway.engines["e0"].pieces_due() - seen)

        g.until(moved)
        engine.pause()
        # What was sent before arrives first.
        last, former = due(g), None
        while last != former:
            former, last = last, _after_some_ticks(g)
        assert len(last) == 1
        assert _after_some_ticks(g) == last
        engine.resume()


def _after_some_ticks(g: InProcess) -> frozenset[tuple[int, float]]:
    ticks: list[float] = []

    def three(running: RunningGateway) -> bool:
        now = running.gateway.wheel.now
        if not ticks or ticks[-1] != now:
            ticks.append(now)
        return len(ticks) > 3

    g.until(three)
    return due(g)


def test_a_request_whose_answer_has_not_begun_is_no_sign_of_life(
    shared: tuple[SimulatedEngine, InProcess],
) -> None:
    engine, g = shared
    with Caller(g.port) as caller:
        engine.faults([{"unhealthy": True}, {"hang": True}])
        caller.send(post(CHAT, chat(model=engine.model, max_tokens=1), JSON))
        g.until(lambda running: running.gateway.engines["e0"].instance.active_requests == 1)
        assert due(g) == frozenset()
