"""Every pair of phases: those that the picture allows happen in a real exchange, and all others are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_inference.config.settings import (
    InstanceSettings,
    LimitSettings,
    SchedulingSettings,
    TimeoutSettings,
)
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.gateway.relay.phase import EFFECTS, ENDS, FINAL, OUTCOMES, RELEASES, STAYS, Phase
from sage_inference.types import EngineState
from tests.support.deaf import deaf
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

READING, QUEUED, CONNECTING, SENT, DELIVERING, DONE, CUT, CANCELLED = Phase
PAIRS = [(at, to) for at in Phase for to in Phase]
ALLOWED = [(at, to) for at, to in PAIRS if EFFECTS[at][to]]
HOLDING = (CONNECTING, SENT, DELIVERING)
Moves = list[tuple[Exchange, Phase, Phase]]
Scenario = Callable[[], None]


def name(pair: tuple[Phase, Phase]) -> str:
    return f"{pair[0].name}-{pair[1].name}"


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    """Each move of a real exchange, as it happens."""
    seen: Moves = []
    move = Exchange._move

    def watched(exchange: Exchange, to: Phase) -> None:
        seen.append((exchange, exchange.phase, to))
        move(exchange, to)

    monkeypatch.setattr(Exchange, "_move", watched)
    yield seen
    where: dict[int, Phase] = {}
    for exchange, left, to in seen:
        assert where.get(id(exchange), READING) is left, "a move that nobody saw"
        where[id(exchange)] = to
    assert all(FINAL[phase] for phase in where.values()), "a request without an end"


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def begun(wire: Wire) -> None:
    wire.send(sse('{"choices":[{"delta":{"content":"x"}}]}'))


def begun_and_silent(wire: Wire) -> None:
    begun(wire)
    hang(wire)


def broken(wire: Wire) -> None:
    begun(wire)
    wire.close()


def closes(wire: Wire) -> None:
    wire.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
    wire.close()


def close(wire: Wire) -> None:
    wire.close()


def waits_then(answer: Answer) -> Answer:
    def waiting(wire: Wire) -> None:
        assert wire.engine.go.wait(20)
        answer(wire)

    return waiting


def settled(g: InProcess) -> None:
    """Every slot and place in the queue was given back, once."""
    g.until(lambda r: r.gateway.in_flight == 0 and r.gateway.scheduler.queued == 0)
    assert not any(g.ask(lambda r: [i.active_requests for i in r.gateway.registry.instances.values()]))


def ready(g: InProcess) -> None:
    g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))


def one_slot(engine: RogueEngine) -> InstanceSettings:
    return InstanceSettings(url=engine.url, name="e0", kind="mixed", max_concurrent_requests=1)


def once(*answers: Answer, status: int = 200, **settings: Any) -> Scenario:
    def scenario() -> None:
        with RogueEngine(*answers) as engine, gateway(engine, **settings) as g, Caller(g.port) as caller:
            assert caller.chat().reply().status == status
            settled(g)

    return scenario


def twice(*answers: Answer, **settings: Any) -> Scenario:
    def scenario() -> None:
        with RogueEngine(*answers) as engine, gateway(engine, **settings) as g, Caller(g.port) as caller:
            assert [caller.chat().reply().status for _ in range(2)] == [200, 200]
            settled(g)

    return scenario


def queued(first: Answer) -> Scenario:
    def scenario() -> None:
        with RogueEngine(waits_then(first), ok()) as engine, gateway(one_slot(engine)) as g:
            with Caller(g.port) as one, Caller(g.port) as two:
                one.chat()
                engine.arrived.get(timeout=10)
                two.chat()
                g.until(lambda r: r.gateway.scheduler.queued == 1)
                engine.go.set()
                assert [one.reply().status, two.reply().status] == [200, 200]
            settled(g)

    return scenario


def queued_and_left() -> None:
    with RogueEngine(hang) as engine, gateway(one_slot(engine)) as g, Caller(g.port) as one:
        one.chat()
        engine.arrived.get(timeout=10)
        with Caller(g.port) as two:
            two.chat()
            g.until(lambda r: r.gateway.scheduler.queued == 1)
        g.until(lambda r: r.gateway.scheduler.queued == 0)
        one.sock.close()
        settled(g)


def queued_for_too_long() -> None:
    with (
        RogueEngine(hang) as engine,
        gateway(one_slot(engine), timeouts=TimeoutSettings(queue_s=0.1)) as g,
        Caller(g.port) as one,
    ):
        one.chat()
        engine.arrived.get(timeout=10)
        with Caller(g.port) as two:
            assert two.chat().reply().status == 429
        one.sock.close()
        settled(g)


def no_model() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat(model="other").reply().status == 404
        settled(g)


def body_too_large() -> None:
    limits = LimitSettings(body_bytes=4096)
    with RogueEngine(ok()) as engine, gateway(engine, limits=limits) as g, Caller(g.port) as caller:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        assert caller.send(head + b"1388\r\n" + b"x" * 5000 + b"\r\n").reply().status == 413
        settled(g)


def left_while_read() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            caller.send(post(CHAT, chat())[:-3])
            connections: Any = g.running.server.server_state.connections
            g.until(lambda _: any(connection.running for connection in connections))
        g.until(lambda _: not connections)
        settled(g)


def refused(engines: int, status: int) -> Scenario:
    """The first of so many engines refuses connections, and nobody found out yet."""

    def scenario() -> None:
        settings = SchedulingSettings(policy="round_robin")
        with RogueEngine(ok()) as bad, RogueEngine(ok()) as good:
            with gateway(*[bad, good][:engines], scheduling=settings) as g, Caller(g.port) as caller:
                ready(g)
                bad.refuse()
                statuses = {caller.chat().reply().status for _ in range(engines)}
                assert statuses == {status}
                settled(g)

    return scenario


def left_while_connecting() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g:
        ready(g)
        engine.refuse()
        with deaf(engine.port):
            with Caller(g.port) as caller:
                caller.chat()
                g.until(lambda r: r.gateway.in_flight == 1)
            settled(g)


def left_after(answer: Answer, wait_for: Callable[[Caller, RogueEngine], object]) -> Scenario:
    def scenario() -> None:
        with RogueEngine(answer) as engine, gateway(engine) as g:
            with Caller(g.port) as caller:
                caller.chat()
                wait_for(caller, engine)
            settled(g)

    return scenario


def sent_elsewhere() -> None:
    """One of two engines is busy."""
    settings = SchedulingSettings(policy="round_robin")
    busy = ok(b"{}", status="503 Busy")
    with RogueEngine(busy) as one, RogueEngine(ok()) as two:
        with gateway(one, two, scheduling=settings) as g, Caller(g.port) as caller:
            assert [caller.chat().reply().status for _ in range(2)] == [200, 200]
            settled(g)


def streamed() -> None:
    def answer(wire: Wire) -> None:
        begun(wire)
        assert wire.engine.go.wait(20)
        wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        assert caller.chat().head().status == 200
        engine.go.set()
        while caller.chunk():
            pass
        settled(g)


SCENARIOS: dict[tuple[Phase, Phase], Scenario] = {
    (READING, QUEUED): queued(ok()),
    (READING, CONNECTING): once(ok()),
    (READING, SENT): twice(ok()),
    (READING, DONE): no_model,
    (READING, CANCELLED): left_while_read,
    (QUEUED, CONNECTING): queued(closes),
    (QUEUED, SENT): queued(ok()),
    (QUEUED, DONE): queued_for_too_long,
    (QUEUED, CANCELLED): queued_and_left,
    (CONNECTING, SENT): once(ok()),
    (CONNECTING, QUEUED): refused(2, 200),
    (CONNECTING, DONE): refused(1, 502),
    (CONNECTING, CANCELLED): left_while_connecting,
    (SENT, DELIVERING): streamed,
    (SENT, CONNECTING): twice(ok(), close, ok()),  # a stale connection
    (SENT, QUEUED): sent_elsewhere,
    (SENT, DONE): once(ok()),
    (SENT, CANCELLED): left_after(hang, lambda caller, engine: engine.arrived.get(timeout=10)),
    (DELIVERING, DONE): streamed,
    (DELIVERING, CUT): once(broken),
    (DELIVERING, CANCELLED): left_after(begun_and_silent, lambda caller, engine: caller.head()),
}
# Other ways of the same moves.
MORE: dict[str, tuple[tuple[Phase, Phase], Scenario]] = {
    "refused while it is read": ((READING, CANCELLED), body_too_large),
    "no first byte": ((SENT, DONE), once(hang, status=504, timeouts=TimeoutSettings(first_byte_s=0.1))),
    "silence within": ((DELIVERING, CUT), once(begun_and_silent, timeouts=TimeoutSettings(stream_idle_s=0.1))),
    "no HTTP": ((SENT, DONE), once(raw(b"no\r\n\r\n", then="close"), status=502)),
    "closed at once": ((SENT, DONE), once(close, status=502)),
}  # fmt: skip


def test_every_allowed_pair_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(ALLOWED)


@pytest.mark.parametrize("pair", ALLOWED, ids=name)
def test_an_allowed_pair_happens(pair: tuple[Phase, Phase], moves: Moves) -> None:
    SCENARIOS[pair]()
    assert pair in [(left, to) for _, left, to in moves]


@pytest.mark.parametrize(("pair", "scenario"), MORE.values(), ids=MORE)
def test_an_allowed_pair_happens_in_another_way(
    pair: tuple[Phase, Phase], scenario: Scenario, moves: Moves
) -> None:
    scenario()
    assert pair in [(left, to) for _, left, to in moves]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in ALLOWED], ids=name)
def test_any_other_pair_is_refused_and_changes_nothing(pair: tuple[Phase, Phase]) -> None:
    exchange = Exchange.__new__(Exchange)
    exchange.phase = pair[0]
    with pytest.raises(AssertionError, match=f"{pair[0].name} to {pair[1].name}"):
        exchange._move(pair[1])
    assert exchange.phase is pair[0]


def test_nothing_leaves_a_final_phase_and_everything_can_reach_one() -> None:
    for at in Phase:
        ends = [to for to in Phase if EFFECTS[at][to] & ENDS]
        assert FINAL[at] == (not any(EFFECTS[at]))
        assert FINAL[at] or (DONE in ends and CANCELLED in ends)
        assert all(FINAL[to] for to in ends)


def test_a_slot_is_given_back_on_leaving_the_phases_that_hold_one_and_nowhere_else() -> None:
    for at, to in ALLOWED:
        effect = EFFECTS[at][to]
        assert bool(effect & RELEASES) == (at in HOLDING and to not in HOLDING)
        assert (effect == STAYS) == (not effect & (ENDS | RELEASES))


def test_an_attempt_ends_with_a_word_wherever_its_slot_is_given_back() -> None:
    for at, to in ALLOWED:
        if EFFECTS[at][to] & RELEASES:
            assert OUTCOMES[to] in ("done", "cut", "cancelled", "retried")
