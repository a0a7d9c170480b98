"""Engines that die or hang with requests on them, and come back: what moves, what waits, how soon they are found."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings, SchedulingSettings
from sage_inference.control_plane.accounting.retry_budget import may_retry
from sage_inference.types import EngineState, InstanceLoad
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import Caller, post

IN_TURN = SchedulingSettings(policy="round_robin")
RARELY = HealthSettings(interval_s=60)
OFTEN = HealthSettings(interval_s=0.1, timeout_s=0.2)


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def good_when_told(wire: Wire) -> None:
    wire.engine.go.wait(20)
    ok("good")(wire)


def stream_until_told(wire: Wire) -> None:
    wire.send(sse("begin"))
    wire.engine.go.wait(20)
    wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def embeds(stack: ExitStack, g: InProcess, text: str) -> Caller:
    body = json.dumps({"model": "m", "input": text}).encode()
    return stack.enter_context(Caller(g.port)).send(post("/v1/embeddings", body))


def crowd(stack: ExitStack, g: InProcess, count: int) -> list[Caller]:
    return [stack.enter_context(Caller(g.port)).chat() for _ in range(count)]


def test_an_engine_that_dies_with_more_requests_than_the_retry_budget_fails_none_of_them() -> None:
    with RogueEngine(hang) as dies, RogueEngine(good_when_told) as lives, ExitStack() as stack:
        g = stack.enter_context(gateway(dies, lives, scheduling=IN_TURN, health=RARELY))
        callers = crowd(stack, g, 120)
        for _ in range(60):
            dies.arrived.get(timeout=10)
            lives.arrived.get(timeout=10)
        dies.refuse()
        lives.go.set()
        assert [caller.reply().body for caller in callers] == [b"good"] * 120
        assert g.ask(lambda r: may_retry(r.gateway.scheduler.rates))  # what is left is for others
        g.until(lambda r: r.gateway.in_flight == 0)


def test_what_waits_on_an_engine_that_hangs_goes_to_a_healthy_one() -> None:
    with RogueEngine(hang) as hangs, RogueEngine(ok("good")) as lives, ExitStack() as stack:
        g = stack.enter_context(gateway(hangs, lives, scheduling=IN_TURN, health=OFTEN))
        callers = crowd(stack, g, 20)
        for _ in range(10):
            hangs.arrived.get(timeout=10)
        hangs.silent = True
        assert [caller.reply().body for caller in callers] == [b"good"] * 20
        for _ in range(10):
            hangs.left.get(timeout=5)  # it was told
        g.until(lambda r: r.gateway.in_flight == 0)


def test_embeddings_that_wait_on_an_engine_that_hangs_go_to_a_healthy_one() -> None:
    vectors = '{"data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m","usage":{"prompt_tokens":1}}'
    with RogueEngine(hang) as hangs, RogueEngine(ok(vectors)) as lives, ExitStack() as stack:
        g = stack.enter_context(gateway(hangs, lives, scheduling=IN_TURN, health=OFTEN))
        callers = [embeds(stack, g, text) for text in ("one", "two")]
        hangs.arrived.get(timeout=10)
        hangs.silent = True
        assert [caller.reply().status for caller in callers] == [200, 200]
        hangs.left.get(timeout=5)
        g.until(lambda r: r.gateway.in_flight == 0)


def test_what_waits_on_the_only_engine_waits_on_while_it_hangs() -> None:
    with RogueEngine(good_when_told) as engine, gateway(engine, health=OFTEN) as g, Caller(g.port) as caller:
        caller.chat()
        engine.arrived.get(timeout=10)
        engine.silent = True
        g.until(lambda r: r.gateway.engines["e0"].health.is_silent)
        engine.go.set()
        assert caller.reply().body == b"good"
        assert len(engine.requests) == 1


def test_a_stream_under_way_stays_with_an_engine_that_hangs_and_goes_on_with_it() -> None:
    with RogueEngine(stream_until_told) as hangs, RogueEngine(ok("other")) as lives:
        with gateway(hangs, lives, health=OFTEN, scheduling=IN_TURN) as g, Caller(g.port) as caller:
            while not hangs.requests:
                caller.chat(stream=True)
                head = caller.head()
                if "content-length" in head.headers:
                    caller.take(int(head.headers["content-length"]))
            assert caller.chunk() == b"data: begin\n\n"
            hangs.silent = True
            name = head.headers["x-sage-instance"]
            g.until(lambda r: r.gateway.engines[name].health.is_silent)
            hangs.go.set()
            assert [caller.chunk(), caller.chunk()] == [b"data: [DONE]\n\n", b""]


def test_a_request_that_finds_an_engine_gone_has_it_probed_soon_and_not_at_the_next_interval() -> None:
    with RogueEngine(ok("a")) as a, RogueEngine(ok("b")) as b:
        with gateway(a, b, health=RARELY, scheduling=IN_TURN) as g, Caller(g.port) as caller:
            a.refuse()
            assert [caller.chat().reply().body for _ in range(4)] == [b"b"] * 4
            assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.EJECTED
            a.listen_again()
            g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.READY)
            assert {caller.chat().reply().body for _ in range(4)} == {b"a", b"b"}


def test_the_first_byte_after_a_hang_teaches_no_pace() -> None:
    """Else an engine that hung for a minute would look too slow to be given anything more."""
    with RogueEngine(good_when_told) as engine, gateway(engine, health=OFTEN) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        engine.arrived.get(timeout=10)
        engine.silent = True
        g.until(lambda r: r.gateway.engines["e0"].health.is_silent)
        engine.silent = False
        engine.go.set()
        assert caller.reply().body == b"good"
        assert (
            g.ask(lambda r: r.gateway.engines["e0"].instance.load.ms_per_token) == InstanceLoad().ms_per_token
        )


def test_an_engine_that_is_back_and_still_loads_its_model_gets_nothing_until_it_is_well() -> None:
    with RogueEngine(ok("a")) as a, RogueEngine(ok("b")) as b:
        with gateway(a, b, health=OFTEN, scheduling=IN_TURN) as g, Caller(g.port) as caller:
            a.refuse()
            g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.EJECTED)
            a.loading = True
            a.listen_again()
            g.until(lambda r: r.gateway.engines["e0"].last_error == "/health answered 503")
            assert [caller.chat().reply().body for _ in range(4)] == [b"b"] * 4
            a.loading = False
            g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.READY)
            assert {caller.chat().reply().body for _ in range(4)} == {b"a", b"b"}


def test_an_engine_that_says_it_drains_and_whose_successor_is_never_missed_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The successor took over between two probes: /health was 200 throughout."""
    monkeypatch.setattr("sage_inference.control_plane.instances.health.DRAINED_S", 0.5)
    body = '{"error":{"message":"cannot schedule new futures after shutdown"}}'
    leaving = ok(body, status="500 Internal Server Error")
    with RogueEngine(leaving, ok("a")) as a, RogueEngine(ok("b")) as b:
        entries = [
            InstanceSettings(url=e.url, name=n, kind="llm", engine="vllm") for e, n in ((a, "a"), (b, "b"))
        ]
        with gateway(*entries, health=OFTEN, scheduling=IN_TURN) as g, Caller(g.port) as caller:
            assert [caller.chat().reply().body for _ in range(4)] == [b"b"] * 4
            assert g.ask(lambda r: r.gateway.engines["a"].instance.state) is EngineState.DRAINING
            g.until(lambda r: r.gateway.engines["a"].instance.state is EngineState.READY)
            assert {caller.chat().reply().body for _ in range(4)} == {b"a", b"b"}


def test_a_start_waits_for_the_only_engine_to_say_what_it_is() -> None:
    with RogueEngine(ok("good")) as engine:
        engine.slow_s = 0.8  # what it is, and whether it is well
        with gateway(engine) as g, Caller(g.port) as caller:
            assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.READY
            assert caller.chat().reply().body == b"good"


def test_a_start_does_not_wait_for_an_engine_that_hangs_where_another_can_serve() -> None:
    with RogueEngine(ok("good")) as engine, RogueEngine(hang) as hangs:
        hangs.silent = True
        with gateway(engine, hangs, health=HealthSettings(timeout_s=10)) as g, Caller(g.port) as caller:
            late = g.ask(lambda r: r.gateway.engines["e1"])
            assert (late.instance.state, late.last_error) == (EngineState.STARTING, None)
            assert caller.chat().reply().body == b"good"
