"""What callers and admins can ask of the scheduler, over real sockets."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings, SchedulingSettings, Settings
from sage_inference.types import EngineState, RequestPriority
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import Caller


class Gate:
    """An engine's answer that waits until it is let go; notes whose request came."""

    def __init__(self) -> None:
        self.turns = threading.Semaphore(0)
        self.seen: list[str] = []

    def __call__(self, wire: Wire) -> None:
        self.seen.append(json.loads(wire.body)["tag"])
        self.turns.acquire()
        ok()(wire)


def one_slot(engine: RogueEngine) -> InstanceSettings:
    return InstanceSettings(url=engine.url, name="e", kind="llm", max_concurrent_requests=1)


def queued(g: InProcess, count: int) -> None:
    g.until(lambda r: r.gateway.scheduler.queued == count)


def test_priority_decides_who_of_those_that_wait_is_next() -> None:
    gate = Gate()
    scheduling = SchedulingSettings(policy="priority")
    with RogueEngine(gate) as engine, gateway(one_slot(engine), scheduling=scheduling) as g:
        callers = [Caller(g.port) for _ in range(4)]
        callers[0].chat(tag="first")
        g.until(lambda r: r.gateway.in_flight == 1)
        for count, (caller, priority) in enumerate(
            zip(callers[1:], ("background", "normal", "high"), strict=True)
        ):
            caller.chat(f"x-sage-priority: {priority}", tag=priority)
            queued(g, count + 1)
        for _ in callers:
            gate.turns.release()
        assert [caller.reply().status for caller in callers] == [200] * 4
        assert gate.seen == ["first", "high", "normal", "background"]


@pytest.mark.parametrize(
    ("fallback", "order"),
    [("fifo", ["low", "high"]), ("priority", ["high", "low"])],
)
def test_under_hybrid_the_fallback_policy_decides_who_is_next_also_after_a_reload(
    fallback: str, order: list[str]
) -> None:
    gate = Gate()
    wanted = SchedulingSettings(llm_fallback_policy=fallback)
    with RogueEngine(gate) as engine, gateway(one_slot(engine)) as g:
        settings = g.ask(lambda r: r.gateway.settings)
        g.ask(lambda r: r.gateway.configure(replace(settings, scheduling=wanted)))
        callers = [Caller(g.port) for _ in range(3)]
        callers[0].chat(tag="first")
        g.until(lambda r: r.gateway.in_flight == 1)
        for count, (caller, priority) in enumerate(zip(callers[1:], ("low", "high"), strict=True)):
            caller.chat(f"x-sage-priority: {priority}", tag=priority)
            queued(g, count + 1)
        for _ in callers:
            gate.turns.release()
        assert [caller.reply().status for caller in callers] == [200] * 3
        assert gate.seen == ["first", *order]


@pytest.mark.parametrize(
    ("prefer", "where"), [(True, {"llm"}), (False, {"llm", "both"})], ids=["so", "not so"]
)
def test_specialised_instances_go_before_mixed_ones_only_where_that_is_preferred(
    prefer: bool, where: set[str]
) -> None:
    scheduling = SchedulingSettings(policy="least_loaded", prefer_specialized_instances=prefer)
    gate = Gate()
    with RogueEngine(gate) as one, RogueEngine(gate) as other:
        kinds = (
            InstanceSettings(url=one.url, name="llm", kind="llm"),
            InstanceSettings(url=other.url, name="both", kind="mixed"),
        )
        with gateway(*kinds, scheduling=scheduling) as g:
            callers = [Caller(g.port) for _ in range(4)]
            for caller in callers:
                caller.chat(tag="x")
            g.until(lambda r: r.gateway.in_flight == 4)
            busy = g.ask(
                lambda r: {i.instance_id for i in r.gateway.registry.instances.values() if i.active_requests}
            )
            for _ in callers:
                gate.turns.release()
            assert [caller.reply().status for caller in callers] == [200] * 4
    assert busy == where


@pytest.mark.parametrize(("priority", "wanted"), [("adaptive", True), ("normal", True), ("high", False)])
def test_gaps_between_chunks_are_told_where_embeddings_go_by_them(priority: str, wanted: bool) -> None:
    def answer(wire: Wire) -> None:
        wire.send(sse("first"))
        for _ in range(3):
            assert wire.engine.go.wait(20)
            wire.engine.go.clear()
            wire.send(chunk(b"data: more\n\n"))
        wire.send(b"0\r\n\r\n")

    scheduling = SchedulingSettings(embedding_priority=priority)

    def tokens(g: InProcess) -> list[int]:
        budgets = g.ask(
            lambda r: [
                budget
                for gpu in r.gateway.scheduler.gpus.values()
                for budget in gpu.streams._budgets.values()
            ]
        )
        return [budget.tokens for budget in budgets if budget]

    with RogueEngine(answer) as engine, gateway(engine, scheduling=scheduling) as g, Caller(g.port) as caller:
        caller.chat(stream=True)
        caller.head()
        assert caller.chunk() == b"data: first\n\n"
        for _ in range(2):
            engine.go.set()
            assert caller.chunk() == b"data: more\n\n"
        assert tokens(g) == ([1] if wanted else [])
        engine.go.set()
        assert caller.chunk() == b"data: more\n\n"
        assert caller.chunk() == b""
        g.until(lambda r: not r.gateway.in_flight)
        assert tokens(g) == []


def test_the_engine_is_not_told_of_what_was_asked_of_the_scheduler() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        asks = ("x-sage-priority: low", "x-sage-deadline-ms: 60000", "x-sage-session: s")
        assert caller.chat(*asks).reply().status == 200
        assert b"x-sage" not in engine.requests[0].lower()


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("x-sage-priority: urgent", "it takes critical, high, normal, low, background"),
        ("x-sage-deadline-ms: soon", "it takes milliseconds"),
        ("x-sage-deadline-ms: -5", "it takes milliseconds"),
        ("x-sage-deadline-ms: nan", "it takes milliseconds"),
    ],
)
def test_what_cannot_be_understood_is_400_and_the_connection_lives_on(header: str, says: str) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        for _ in range(2):
            reply = caller.chat(header).reply()
            assert reply.status == 400
            assert says in reply.error["message"]
            assert reply.error["param"] == header.partition(":")[0]
        assert caller.chat().reply().status == 200


def test_a_deadline_that_passes_in_the_queue_is_429_with_a_time_to_come_back() -> None:
    gate = Gate()
    with (
        RogueEngine(gate) as engine,
        gateway(one_slot(engine)) as g,
        Caller(g.port) as a,
        Caller(g.port) as b,
    ):
        a.chat(tag="a")
        g.until(lambda r: r.gateway.in_flight == 1)
        reply = b.chat("x-sage-deadline-ms: 30", tag="b").reply()
        assert (reply.status, reply.error["code"]) == (429, "deadline_exceeded")
        assert int(reply.headers["retry-after"]) >= 1
        gate.turns.release()
        assert a.reply().status == 200
        assert gate.seen == ["a"]


def test_a_deadline_that_cannot_be_met_is_429_at_once() -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        reply = caller.chat(
            "x-sage-deadline-ms: 1", padding="x", messages=[{"content": "word " * 40_000}]
        ).reply()
        assert (reply.status, reply.error["code"]) == (429, "deadline_exceeded")
        assert not engine.requests


@pytest.mark.parametrize("deadline", ["0.001", "0.04", "0.4", "1", "9.5", "12", "12.4", "99.6", "100"])
def test_a_refusal_states_the_deadline_that_the_caller_sent(deadline: str) -> None:
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        messages = [{"content": "word " * 40_000}]
        reply = caller.chat(f"x-sage-deadline-ms: {deadline}", padding="x", messages=messages).reply()
        assert reply.status == 429
        assert f"no first byte can be had within {deadline} ms; about " in reply.error["message"]


def test_a_key_bounds_the_priority_its_holder_may_ask_for() -> None:
    keys = (
        ApiKeySettings(key=Secret("b"), name="batch", priority="low"),
        ApiKeySettings(key=Secret("u"), name="user"),
    )
    gate = Gate()
    with RogueEngine(gate) as engine, gateway(one_slot(engine), api_keys=keys) as g:
        first = Caller(g.port).chat("authorization: Bearer u", tag="first")
        g.until(lambda r: r.gateway.in_flight == 1)
        asked = {"b critical": (), "b background": (), "u critical": ()}
        callers = [
            Caller(g.port).chat(
                f"authorization: Bearer {who.split()[0]}", f"x-sage-priority: {who.split()[1]}", tag=who
            )
            for who in asked
        ]
        queued(g, 3)
        found = g.ask(
            lambda r: {
                (w.request.tenant, w.request.priority)
                for group_queue in r.gateway.scheduler._queue.group_queues.values()
                for w in group_queue.everyone()
            }
        )
        assert found == {
            ("batch", RequestPriority.LOW),
            ("batch", RequestPriority.BACKGROUND),
            ("user", RequestPriority.CRITICAL),
        }
        for _ in range(4):
            gate.turns.release()
        assert [caller.reply().status for caller in (first, *callers)] == [200] * 4


def test_a_caller_that_leaves_the_queue_is_gone_at_once() -> None:
    gate = Gate()
    with RogueEngine(gate) as engine, gateway(one_slot(engine)) as g, Caller(g.port) as a:
        a.chat(tag="a")
        g.until(lambda r: r.gateway.in_flight == 1)
        with Caller(g.port) as b:
            b.chat(tag="b")
            queued(g, 1)
        queued(g, 0)
        gate.turns.release()
        assert a.reply().status == 200
        assert gate.seen == ["a"]


def test_the_policy_changes_under_those_that_wait_and_nobody_is_lost() -> None:
    gate = Gate()
    with RogueEngine(gate) as engine, gateway(one_slot(engine)) as g:
        callers = [Caller(g.port).chat(tag=str(n)) for n in range(5)]
        queued(g, 4)
        with httpx.Client(base_url=g.url, headers=ADMIN, trust_env=False, verify=False) as admin:
            for policy in ("priority", "slo_aware", "round_robin"):
                assert admin.put("/admin/policy", json={"policy": policy}).json()["policy"] == policy
                assert admin.get("/admin/status").json()["requests"]["queued"] == 4
        g.ask(lambda r: r.reload())
        queued(g, 4)
        for _ in callers:
            gate.turns.release()
        assert [caller.reply().status for caller in callers] == [200] * 5


def test_one_models_policy_is_set_and_ended_at_run_time() -> None:
    with gateway() as g, httpx.Client(base_url=g.url, headers=ADMIN, trust_env=False, verify=False) as admin:
        answer = admin.put("/admin/policy", json={"policy": "session", "model": "m"}).json()
        assert (answer["policy"], answer["models"]) == ("hybrid", {"m": "session"})
        assert admin.put("/admin/policy", json={"policy": None, "model": "m"}).json()["models"] == {}
        assert admin.put("/admin/policy", json={"policy": None}).status_code == 400
        assert admin.put("/admin/policy", json={"policy": "session", "model": 5}).status_code == 400


def test_a_models_policy_stands_in_the_configuration() -> None:
    scheduling = SchedulingSettings(policies={"m": "random"})
    with gateway(scheduling=scheduling) as g:
        assert g.ask(lambda r: {m: p.name for m, p in r.gateway.scheduler.policies.items()}) == {
            "m": "random"
        }
        g.settings_to_load = Settings()
        assert g.ask(lambda r: (r.reload(), dict(r.gateway.scheduler.policies))[1]) == {}


def test_a_session_stays_on_its_instance() -> None:
    scheduling = SchedulingSettings(policy="session")
    with RogueEngine(ok()) as a, RogueEngine(ok()) as b, gateway(a, b, scheduling=scheduling) as g:
        for number in range(6):
            with Caller(g.port) as caller:
                places = {
                    caller.chat(f"x-sage-session: {number}").reply().headers["x-sage-instance"]
                    for _ in range(4)
                }
            assert len(places) == 1
        assert a.requests
        assert b.requests


def test_what_engines_report_corrects_the_estimates() -> None:
    answer = ok(b'{"usage":{"prompt_tokens":400,"completion_tokens":1}}')
    with RogueEngine(answer) as engine, gateway(engine) as g, Caller(g.port) as caller:
        before = g.ask(lambda r: r.gateway.scheduler.estimates.tokens_per_byte("m", 0))
        for _ in range(30):
            caller.chat(user="ann").reply()
        after = g.ask(lambda r: r.gateway.scheduler.estimates.tokens_per_byte("m", 0))
        assert after > 2 * before
        assert g.ask(lambda r: r.gateway.scheduler.tenants.of("ann")) > 30 * 2


def vectors(*numbers: float) -> bytes:
    return json.dumps({"data": [{"index": 0, "embedding": numbers}]}).encode()


def test_an_embedding_replica_with_other_vectors_gets_no_request_and_is_told_of() -> None:
    engines = [RogueEngine(ok(vectors(*numbers)), probed=True) for numbers in ((1, 0), (0, 1))]
    with engines[0] as one, engines[1] as two:
        instances = [
            InstanceSettings(url=e.url, name=n, kind="embedding") for e, n in ((one, "one"), (two, "two"))
        ]
        with (
            gateway(instances[0]) as g,
            httpx.Client(base_url=g.url, headers=ADMIN, trust_env=False, verify=False) as c,
        ):
            assert c.post("/admin/instances", json={"url": two.url, "name": "two", "kind": "embedding"})
            g.until(lambda r: r.gateway.engines["two"].differs)
            g.until(lambda r: r.gateway.engines["two"].instance.state is EngineState.EJECTED)
            status = {i["name"]: i for i in c.get("/admin/status").json()["instances"]}
            assert "other vectors for m than one" in status["two"]["last_error"]
            asked = [c.post("/v1/embeddings", json={"model": "m", "input": "x"}) for _ in range(6)]
            assert {answer.headers["x-sage-instance"] for answer in asked} == {"one"}


def test_what_an_instance_held_is_forgotten_when_it_dies() -> None:
    long = [{"role": "user", "content": "word " * 600}]
    with RogueEngine(ok()) as engine, gateway(engine) as g, Caller(g.port) as caller:
        caller.chat(messages=long).reply()
        assert g.ask(lambda r: len(r.gateway.scheduler._selector.prefixes._holders)) > 0
        g.ask(lambda r: r.gateway.engines["e0"].draining())
        assert g.ask(lambda r: len(r.gateway.scheduler._selector.prefixes._holders)) == 0


def test_the_first_byte_of_a_stream_makes_room_for_the_next_prompt() -> None:
    """The second prompt waits in the gateway until the first is begun, though the first goes on."""
    begun, more = threading.Event(), threading.Event()

    def stream(wire: Wire) -> None:
        begun.wait(10)
        wire.send(sse("{}"))
        more.wait(10)
        wire.send(b"0\r\n\r\n")

    one, other = ([{"role": "user", "content": word * 5000}] for word in ("word ", "text "))
    with RogueEngine(stream) as engine, gateway(engine) as g, Caller(g.port) as a, Caller(g.port) as b:
        a.chat(messages=one, stream=True)
        g.until(lambda r: r.gateway.in_flight == 1)
        b.chat(messages=other, stream=True)
        queued(g, 1)
        begun.set()
        assert a.head().status == 200
        queued(g, 0)
        more.set()
        assert b.reply().status == 200


def test_short_prompts_are_followed_only_where_there_is_a_choice() -> None:
    def followed(g: InProcess) -> int:
        return g.ask(lambda r: len(r.gateway.scheduler._selector.prefixes._holders))

    short = [{"role": "user", "content": "word " * 200}]
    with RogueEngine(ok()) as a, RogueEngine(ok()) as b:
        with gateway(a) as g, Caller(g.port) as caller:
            caller.chat(messages=short).reply()
            assert followed(g) == 0
        with gateway(a, b) as g, Caller(g.port) as caller:
            caller.chat(messages=short).reply()
            assert followed(g) > 0
