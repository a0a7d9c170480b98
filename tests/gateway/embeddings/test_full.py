"""A request that is a call as it is is made one by its caller's own exchange, until it concerns others or goes wrong."""

from __future__ import annotations

import json
import math
import queue
import threading
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from sage_inference.config.settings import (
    HealthSettings,
    InstanceSettings,
    SchedulingSettings,
    TimeoutSettings,
)
from sage_inference.control_plane.embedding import CallLimits
from sage_inference.control_plane.instances.gpu_sharing import MOST_BESIDE
from sage_inference.control_plane.instances.load import Placement
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.gateway.embeddings.callers import batcher
from tests.gateway.embeddings.odd import Asked, odd_house
from tests.gateway.embeddings.test_alone import answering, asked, embed, nothing_left, vectors
from tests.support.deaf import deaf
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, ok, raw
from tests.support.wire import Caller

FULL = 2  # texts
RARELY = HealthSettings(interval_s=60)


def door(*engines: Any, **settings: Any) -> AbstractContextManager[InProcess]:
    return gateway(*engines, scheduling=SchedulingSettings(embedding_batch_size=FULL), **settings)


def when_told(wire: Wire) -> None:
    wire.engine.go.wait(20)
    answering(wire)


def silent(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def by_calls(g: InProcess) -> int:
    """Calls under way that no caller's exchange makes."""
    return g.ask(lambda r: len(r.gateway.embeddings._calls))


def test_its_caller_makes_the_call_and_gets_the_answer_as_it_is() -> None:
    with RogueEngine(when_told) as engine, door(engine) as g, Caller(g.port) as caller:
        caller.send(embed("a", "bb"))
        assert asked(engine.arrived.get(timeout=5)) == ["a", "bb"]
        assert by_calls(g) == 0
        engine.go.set()
        assert caller.reply().body == vectors("a", "bb")
        counters = batcher(g).counters
        assert (counters.requests, counters.calls, counters.texts, counters.sent_texts) == (1, 1, 2, 2)
        nothing_left(g)


@pytest.mark.parametrize("texts", [("a", "b", "c"), ("a", "a")], ids=["more than a call", "twice the same"])
def test_a_request_that_is_no_call_as_it_is_is_made_several_or_another(texts: tuple[str, ...]) -> None:
    with RogueEngine(when_told) as engine, door(engine) as g, Caller(g.port) as caller:
        caller.send(embed(*texts))
        engine.arrived.get(timeout=5)
        assert by_calls(g) >= 1
        engine.go.set()
        assert len(json.loads(caller.reply().body)["data"]) == len(texts)
        nothing_left(g)


@pytest.mark.parametrize("most", [1, 2, 32])
@pytest.mark.parametrize("native", [False, True])
def test_a_text_alone_is_sent_by_its_caller_whether_or_not_it_fills_a_call(most: int, native: bool) -> None:
    asked = Asked(["a"], native=native)
    with odd_house(scheduling=SchedulingSettings(embedding_batch_size=most)) as house:
        calls: list[int] = []
        house.door.ask(
            lambda r: r.gateway.scheduler.watch(lambda _: calls.append(len(r.gateway.embeddings._calls)))
        )
        [reply] = house.ask([asked])
        asked.check(reply)
        assert "x-sage-queue-ms" not in reply.headers
        assert calls == [0]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_requests_of_one_iteration_of_the_loop_share_a_call(count: int) -> None:
    texts = [f"text {n}" for n in range(count)]
    with RogueEngine(answering) as engine, gateway(engine) as g, ExitStack() as stack:
        callers = [stack.enter_context(Caller(g.port)) for _ in texts]
        assert all(caller.send(embed("warm")).reply().status == 200 for caller in callers)
        engine.requests.clear()
        held, go = threading.Event(), threading.Event()
        g.hold(held, go)
        assert held.wait(5)
        for caller, text in zip(callers, texts, strict=True):
            caller.send(embed(text))
        go.set()
        for caller, text in zip(callers, texts, strict=True):
            assert json.loads(caller.reply().body)["data"] == json.loads(vectors(text))["data"]
        assert len(engine.requests) == 1
        nothing_left(g)


def test_a_text_that_leaves_before_it_is_sent_leaves_nothing_behind() -> None:
    with RogueEngine(answering) as engine, gateway(engine) as g:
        held, go = threading.Event(), threading.Event()
        with Caller(g.port) as caller:
            g.until(lambda r: r.gateway.connections == 1)
            g.hold(held, go)
            assert held.wait(5)
            caller.send(embed("a"))
        go.set()
        nothing_left(g)
        with Caller(g.port) as other:
            assert other.send(embed("b")).reply().body == vectors("b")
        nothing_left(g)


def test_no_coding_is_offered_for_an_answer_that_others_may_come_to_share() -> None:
    with RogueEngine(answering) as engine, door(engine) as g, Caller(g.port) as caller:
        request = embed("a", "b").replace(
            b"\r\n\r\n", b"\r\naccept-encoding: gzip\r\nx-other: kept\r\n\r\n", 1
        )
        assert caller.send(request).reply().status == 200
        assert engine.requests[0].lower().count(b"accept-encoding") == 1
        assert b"\r\naccept-encoding: identity\r\n" in engine.requests[0]
        assert b"x-other: kept" in engine.requests[0]


def test_a_call_is_recorded_with_the_tokens_of_its_texts() -> None:
    seen: list[tuple[int, int]] = []

    def ended(placement: Placement) -> None:
        seen.append((placement.request.prompt_tokens, placement.tokens))

    with RogueEngine(when_told) as engine, door(engine) as g, ExitStack() as stack:
        g.ask(lambda r: r.gateway.scheduler.watch(None, ended))
        callers = [stack.enter_context(Caller(g.port)) for _ in range(5)]
        for n, caller in enumerate(callers):
            caller.send(embed("a long text " * 20 * n + str(n)))
        g.until(lambda r: r.gateway.embeddings.batcher.jobs == len(callers))
        engine.go.set()
        assert all(caller.reply().status == 200 for caller in callers)
        nothing_left(g)
    assert len(seen) > 2
    assert all(recorded == taken for recorded, taken in seen)
    assert len({taken for _, taken in seen}) > 2


def test_it_does_not_pass_those_who_wait() -> None:
    with RogueEngine(when_told) as engine:
        instance = InstanceSettings(url=engine.url, name="e0", kind="embedding", max_concurrent_requests=1)
        with door(instance) as g, Caller(g.port) as one, Caller(g.port) as two, Caller(g.port) as three:
            one.send(embed("a", "b"))
            engine.arrived.get(timeout=5)
            two.send(embed("c"))
            g.until(lambda r: r.gateway.embeddings.batcher.waits)
            three.send(embed("d", "e"))
            g.until(lambda r: r.gateway.embeddings.batcher.jobs == 3)
            assert g.ask(lambda r: r.gateway.in_flight) == 1
            engine.go.set()
            assert [caller.reply().status for caller in (one, two, three)] == [200] * 3
            assert b'"c"' in engine.requests[1]
            nothing_left(g)


def answering_later(wire: Wire) -> None:
    """A chat goes on for ever, and vectors come when the engine may go on."""
    if b"/v1/chat" in wire.head:
        silent(wire)
    else:
        wire.engine.go.wait(20)
        answering(wire)


def test_while_an_llm_streams_on_its_gpu_it_is_the_managers_to_place() -> None:
    """One embedding call at a time, then (see ``control_plane.instances.gpu_sharing``)."""

    with RogueEngine(answering_later) as engine, door(engine) as g, Caller(g.port) as chat:
        chat.chat()
        engine.arrived.get(timeout=5)
        with Caller(g.port) as one, Caller(g.port) as two:
            one.send(embed("a", "b"))
            engine.arrived.get(timeout=5)
            two.send(embed("c", "d"))
            g.until(lambda r: r.gateway.embeddings.batcher.jobs == 2)
            with pytest.raises(queue.Empty):
                engine.arrived.get(timeout=0.1)
            engine.go.set()
            assert one.reply().body == vectors("a", "b")
            assert two.reply().body == vectors("c", "d")


def test_beside_an_llm_calls_whose_cost_is_known_follow_each_other_before_the_first_is_answered() -> None:
    def cost_is_known(r: RunningGateway) -> None:
        [gpu] = r.gateway.scheduler.gpus.values()
        gpu.cost.seconds_a_token = 0.0002  # about 5 ms from one call to the next
        gpu.cost._until = math.inf
        r.gateway.engines["e0"].window.limits = CallLimits()  # of an engine that batches calls

    with (
        RogueEngine(answering_later) as engine,
        door(engine) as g,
        Caller(g.port) as chat,
        ExitStack() as stack,
    ):
        chat.chat()
        engine.arrived.get(timeout=5)
        g.ask(cost_is_known)
        callers = [stack.enter_context(Caller(g.port)) for _ in range(MOST_BESIDE + 2)]
        for n, caller in enumerate(callers):
            caller.send(embed(f"a {n}", f"b {n}"))
        for _ in range(MOST_BESIDE):
            engine.arrived.get(timeout=5)
        with pytest.raises(queue.Empty):
            engine.arrived.get(timeout=0.1)
        engine.go.set()
        for n, caller in enumerate(callers):
            assert caller.reply().body == vectors(f"a {n}", f"b {n}")


# It goes wrong


@pytest.mark.parametrize(
    "broken", [raw(b"", then="reset"), raw(b"SSH-2.0\r\n\r\n")], ids=["reset", "garbage"]
)
def test_an_engine_that_fails_before_the_first_byte_is_told(
    broken: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with RogueEngine(broken, answering) as engine, door(engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a", "b")).reply()
        assert (reply.status, reply.error["type"]) == (502, "upstream_error")
        nothing_left(g)
        g.until(lambda r: r.gateway.in_flight == 0)
        assert caller.send(embed("a", "b")).reply().body == vectors("a", "b")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []  # it failed once


def test_a_connection_that_was_closed_as_the_request_crossed_is_replaced() -> None:
    def closes_unseen(wire: Wire) -> None:
        wire.close()

    with (
        RogueEngine(answering, closes_unseen, answering) as engine,
        door(engine) as g,
        Caller(g.port) as caller,
    ):
        assert caller.send(embed("a", "b")).reply().body == vectors("a", "b")
        assert caller.send(embed("c", "d")).reply().body == vectors("c", "d")
        assert engine.connections == 2
        nothing_left(g)


def test_an_engine_that_refuses_connections_is_told() -> None:
    with RogueEngine(answering) as engine, door(engine, health=RARELY) as g, Caller(g.port) as caller:
        engine.refuse()
        reply = caller.send(embed("a", "b")).reply()
        assert reply.status == 502
        assert "refused the connection" in reply.error["message"]
        nothing_left(g)


def test_an_engine_that_accepts_no_connection_is_told_in_time() -> None:
    timeouts = TimeoutSettings(connect_s=0.2)
    with RogueEngine(answering) as engine, door(engine, timeouts=timeouts, health=RARELY) as g:
        engine.refuse()
        with deaf(engine.port), Caller(g.port) as caller:
            reply = caller.send(embed("a", "b")).reply()
            assert (reply.status, reply.error["type"]) == (504, "upstream_timeout")
            assert "0.2 s" in reply.error["message"]
        nothing_left(g)


def test_an_engine_silent_before_the_first_byte_is_told_in_time() -> None:
    timeouts = TimeoutSettings(first_byte_s=0.2)
    with RogueEngine(silent) as engine, door(engine, timeouts=timeouts, health=RARELY) as g:
        with Caller(g.port) as caller:
            reply = caller.send(embed("a", "b")).reply()
            assert (reply.status, reply.error["type"]) == (504, "upstream_timeout")
        engine.left.get(timeout=5)
        nothing_left(g)


def test_what_an_engine_says_behind_its_refusal_concerns_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def refuses(wire: Wire) -> None:
        ok("{}", status="400 Bad Request")(wire)
        wire.engine.go.wait(20)
        wire.close()

    with RogueEngine(refuses) as engine, door(engine) as g, Caller(g.port) as caller:
        assert caller.send(embed("a", "b")).reply().status == 400
        engine.go.set()
        g.until(lambda r: r.gateway.engines["e0"].pool.idle == 0)
        nothing_left(g)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_what_does_not_fit_into_the_call_it_is_repeated_in_is_sent_at_once_in_another() -> None:
    def fails(wire: Wire) -> None:
        wire.engine.go.wait(20)
        wire.reset()

    with RogueEngine(fails) as bad, RogueEngine(when_told) as good, door(bad, good, health=RARELY) as g:

        def use(state: EngineState) -> None:
            def change(r: RunningGateway) -> None:
                r.gateway.engines["e1"].instance.state = state
                r.gateway.engines["e1"].window.limits = CallLimits(texts=1)
                r.gateway.instances_changed()

            g.ask(change)

        use(EngineState.STOPPED)
        with Caller(g.port) as caller:
            caller.send(embed("a", "bb"))
            bad.arrived.get(timeout=5)
            use(EngineState.READY)
            bad.go.set()
            # On two connections: either may be read first.
            assert sorted(asked(good.arrived.get(timeout=5)) for _ in range(2)) == [["a"], ["bb"]]
            good.go.set()
            assert len(json.loads(caller.reply().body)["data"]) == 2
        nothing_left(g)


def test_a_text_longer_than_what_was_learned_is_refused_without_asking_again() -> None:
    def small(wire: Wire) -> None:
        if len(wire.body) > 1000:
            ok("length limit exceeded", status="413 Payload Too Large")(wire)
        else:
            answering(wire)

    with RogueEngine(small) as engine, door(engine) as g, Caller(g.port) as caller:
        reply = caller.send(embed("a" * 600, "b" * 600)).reply()
        assert [len(item["embedding"]) for item in json.loads(reply.body)["data"]] == [10_000] * 2
        before = len(engine.requests)
        reply = caller.send(embed("c" * 2000)).reply()
        assert (reply.status, len(engine.requests)) == (400, before)
        assert "fits no call" in reply.error["message"]
        nothing_left(g)


def test_limits_are_those_of_the_instances_there_are() -> None:
    def tell(r: RunningGateway) -> None:
        r.gateway.engines["e0"].window.limits = CallLimits(size=100)
        r.gateway.instances_changed()

    with RogueEngine(answering) as engine, door(engine) as g, Caller(g.port) as caller:
        assert caller.send(embed("a" * 200)).reply().status == 200
        g.ask(tell)
        assert "the engine takes 100 bytes" in caller.send(embed("a" * 200)).reply().error["message"]


# Others, and who leaves


def _shared(g: InProcess, engine: RogueEngine, one: Caller, other: Caller) -> None:
    one.send(embed("same", "mine"))
    engine.arrived.get(timeout=5)
    other.send(embed("same"))
    g.until(lambda r: r.gateway.embeddings.batcher.jobs == 2)


def test_who_leaves_before_the_first_byte_takes_the_call_along() -> None:
    with RogueEngine(silent) as engine, door(engine) as g:
        with Caller(g.port) as caller:
            caller.send(embed("a", "b"))
            engine.arrived.get(timeout=5)
        engine.left.get(timeout=5)
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == 1


def test_what_is_not_http_behind_a_request_ends_the_connection_after_its_answer() -> None:
    with RogueEngine(answering) as engine, door(engine) as g, Caller(g.port) as caller:
        caller.send(embed("a", "b") + b"garbage\r\n\r\n")
        assert caller.reply().status == 200
        assert caller.reply().status == 400
        assert caller.closed()
        nothing_left(g)


def test_who_leaves_while_others_share_the_call_leaves_it_to_them() -> None:
    with RogueEngine(when_told) as engine, door(engine) as g, Caller(g.port) as other:
        with Caller(g.port) as one:
            _shared(g, engine, one, other)
        g.until(lambda r: r.gateway.embeddings.batcher.jobs == 1)
        engine.go.set()
        assert json.loads(other.reply().body)["data"] == json.loads(vectors("same"))["data"]
        assert len(engine.requests) == 1
        nothing_left(g)


def test_who_leaves_while_the_connection_is_made_leaves_nothing_behind() -> None:
    with RogueEngine(answering) as engine, door(engine, health=RARELY) as g:
        engine.refuse()
        with deaf(engine.port):
            with Caller(g.port) as caller:
                caller.send(embed("a", "b"))
                g.until(lambda r: r.gateway.embeddings.batcher.jobs == 1)
            nothing_left(g)
            g.until(lambda r: not r.gateway.engines["e0"].pool._tasks)


def test_a_failure_is_told_to_all_who_share_the_call() -> None:
    def fails(wire: Wire) -> None:
        wire.engine.go.wait(20)
        wire.reset()

    with RogueEngine(fails) as engine, door(engine) as g, Caller(g.port) as one, Caller(g.port) as other:
        _shared(g, engine, one, other)
        engine.go.set()
        assert [caller.reply().status for caller in (one, other)] == [502, 502]
        nothing_left(g)


def test_many_at_once_each_get_their_own() -> None:
    def ask(number: int) -> None:
        with Caller(g.port) as caller:
            for turn in range(5):
                texts = ("x" * (number + 1), "y" * (turn + 20))
                replies[number] = replies.get(number, True) and (
                    caller.send(embed(*texts)).reply().body == vectors(*texts)
                )

    replies: dict[int, bool] = {}
    with RogueEngine(answering) as engine, door(engine) as g:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(replies) == list(range(8))
        nothing_left(g)
