"""Many things at once: while the gateway's loop stands still everything arrives, and is then handled in one turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sage_inference.config.settings import InstanceSettings
from sage_inference.server import RunningGateway
from sage_inference.wire.memory import join
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, ok
from tests.support.wire import CHAT, Caller, chat, post

CALLERS = 16


@contextmanager
def standing_still(g: InProcess) -> Iterator[None]:
    """The gateway's event loop does nothing meanwhile."""
    stands, go = threading.Event(), threading.Event()

    def stand() -> None:
        stands.set()
        go.wait(20)

    asked = threading.Thread(target=g.ask, args=(lambda _: stand(),))
    asked.start()
    assert stands.wait(10)
    try:
        yield
    finally:
        go.set()
        asked.join(10)


def callers(stack: ExitStack, g: InProcess) -> list[Caller]:
    return [stack.enter_context(Caller(g.port)) for _ in range(CALLERS)]


class Together:
    """An engine's answers, which all go out while the gateway stands still."""

    def __init__(self) -> None:
        self._sent = threading.Semaphore(0)

    def __call__(self, wire: Wire) -> None:
        wire.engine.go.wait(20)
        ok(b"good %b" % wire.body[-12:])(wire)
        self._sent.release()

    def go(self, engine: RogueEngine, g: InProcess) -> None:
        for _ in range(CALLERS):
            engine.arrived.get(timeout=10)
        with standing_still(g):
            engine.go.set()
            for _ in range(CALLERS):
                assert self._sent.acquire(timeout=10)
        engine.go.clear()


def tagged(number: int, **fields: object) -> bytes:
    return chat(**fields, tag=f"{number:06d}")  # type: ignore[arg-type]


def test_requests_that_arrive_together_are_each_answered_with_their_own() -> None:
    together = Together()
    with RogueEngine(together) as engine, gateway(engine) as g, ExitStack() as stack:
        all_ = callers(stack, g)
        for _ in range(3):
            with standing_still(g):
                for number, caller in enumerate(all_):
                    caller.send(post(CHAT, tagged(number)))
            together.go(engine, g)
            bodies = [caller.reply().body for caller in all_]
            assert bodies == [b"good %b" % tagged(number)[-12:] for number in range(CALLERS)]
        g.until(lambda r: r.gateway.in_flight == 0)
        assert g.ask(lambda r: r.gateway.stats.total) == 3 * CALLERS


def test_no_engine_gets_more_at_once_than_it_has_slots() -> None:
    with RogueEngine(Together()) as engine, ExitStack() as stack:
        few = InstanceSettings(url=engine.url, name="e0", kind="llm", max_concurrent_requests=2)
        g = stack.enter_context(gateway(few))
        all_ = callers(stack, g)
        with standing_still(g):
            for number, caller in enumerate(all_):
                caller.send(post(CHAT, tagged(number)))
        g.until(lambda r: r.gateway.scheduler.queued == CALLERS - 2)
        assert g.ask(lambda r: r.gateway.in_flight) == 2
        for _ in range(2):
            engine.arrived.get(timeout=10)
        assert engine.arrived.empty()
        engine.go.set()
        assert [caller.reply().status for caller in all_] == [200] * CALLERS


def test_answers_that_end_their_connections_arrive_whole() -> None:
    together = Together()
    with RogueEngine(together) as engine, gateway(engine) as g, ExitStack() as stack:
        all_ = callers(stack, g)
        for number, caller in enumerate(all_):
            caller.send(post(CHAT, tagged(number), "connection: close"))
        together.go(engine, g)
        for number, caller in enumerate(all_):
            assert caller.reply().body == b"good %b" % tagged(number)[-12:]
            assert caller.sock.recv(1) == b""


def test_callers_that_leave_as_their_requests_go_out_leave_nothing_behind() -> None:
    with RogueEngine(Together()) as engine, gateway(engine) as g, ExitStack() as stack:
        all_ = callers(stack, g)
        with standing_still(g):
            for number, caller in enumerate(all_):
                caller.send(post(CHAT, tagged(number)))
                caller.sock.close()
        g.until(lambda r: r.gateway.connections == 0 and r.gateway.in_flight == 0)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == CALLERS


def test_pipelined_requests_are_answered_in_order_though_only_some_need_an_engine() -> None:
    together = Together()
    with RogueEngine(together) as engine, gateway(engine) as g, ExitStack() as stack:
        all_ = callers(stack, g)
        with standing_still(g):
            for number, caller in enumerate(all_):
                unserved = post(CHAT, tagged(number, model="none"))
                caller.send(post(CHAT, tagged(number)) + unserved + post(CHAT, tagged(number)) + unserved)
        together.go(engine, g)
        engine.go.set()
        for number, caller in enumerate(all_):
            replies = [caller.reply() for _ in range(4)]
            assert [reply.status for reply in replies] == [200, 404, 200, 404]
            assert [reply.body for reply in replies[::2]] == [b"good %b" % tagged(number)[-12:]] * 2


class Hasty(asyncio.Protocol):
    """Asks, and does not wait for an answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(post(CHAT, tagged(0)))
        transport.close()


def test_a_caller_within_the_process_that_closes_as_it_has_asked_leaves_nothing_behind() -> None:
    """What it sent is still held when its connection is lost: over a pipe that is told at once."""
    with RogueEngine(Together()) as engine, gateway(engine) as g:

        def ask_and_close(running: RunningGateway) -> None:
            join(running.callers._accept(), Hasty(), asyncio.get_running_loop())
            running.gateway.loop_batch.later(lambda: None)

        g.ask(ask_and_close)
        g.until(lambda r: r.gateway.connections == 0 and r.gateway.in_flight == 0)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == 1
