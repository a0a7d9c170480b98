"""A caller may choose the id of its response, which an engine of vLLM allows: no two tenants have the same one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings, SchedulingSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw
from tests.support.wire import Caller, Reply, post

PATH = "/v1/responses"
OWN = "resp_order-17"
MADE = json.dumps({"id": OWN, "object": "response"})
KEYS = tuple(ApiKeySettings(key=Secret(f"sk-{name}"), name=name) for name in ("one", "two"))


def held(wire: Wire) -> None:
    assert wire.engine.go.wait(20)
    ok(MADE)(wire)


def stream(wire: Wire) -> None:
    """The head at once, as vLLM does, and the id later."""
    wire.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    assert wire.engine.go.wait(20)
    wire.send(chunk(f'data: {{"response":{MADE}}}\n\n'.encode()) + b"0\r\n\r\n")


def engine(*answers: Answer) -> RogueEngine:
    return RogueEngine(*answers, routes=[PATH], scripted=(f"{PATH}/",))


def before(*engines: RogueEngine, at_once: int = 0) -> Any:
    named = (
        InstanceSettings(url=e.url, name=f"e{n}", max_concurrent_requests=at_once)
        for n, e in enumerate(engines)
    )
    return gateway(
        *named, api_keys=KEYS, scheduling=SchedulingSettings(policy="round_robin", late_binding=False)
    )


def choose(caller: Caller, tenant: str, own: str = OWN, field: str = "request_id") -> Caller:
    body = f'{{"model":"m","input":"hi","{field}":"{own}"}}'.encode()
    return caller.send(post(PATH, body, f"authorization: Bearer sk-{tenant}"))


def read(g: InProcess, tenant: str) -> Reply:
    with Caller(g.port) as caller:
        head = f"GET {PATH}/{OWN} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sk-{tenant}\r\n\r\n"
        return caller.send(head.encode()).reply()


def is_in_use(reply: Reply) -> bool:
    return reply.status == 409 and "is in use" in reply.error["message"]


@pytest.mark.parametrize("field", ["request_id", "request\\u005fid"])
@pytest.mark.parametrize("answer", [held, stream])
def test_it_is_the_first_tenants_before_its_engine_answers(answer: Answer, field: str) -> None:
    with engine(answer) as one, before(one) as g, Caller(g.port) as first, Caller(g.port) as second:
        choose(first, "one")
        one.arrived.get(timeout=10)
        assert is_in_use(choose(second, "two", field=field).reply())
        one.go.set()
        assert first.reply().status == 200
        assert read(g, "one").status == 200
        assert read(g, "two").status == 404
        assert is_in_use(choose(second, "two").reply())
        assert len(one.requests) == 1 + 1  # and the GET


def test_of_two_that_wait_for_a_slot_the_second_is_refused() -> None:
    with engine(held) as one, before(one, at_once=1) as g:
        with Caller(g.port) as busy, Caller(g.port) as first, Caller(g.port) as second:
            choose(busy, "one", own="resp_other")
            one.arrived.get(timeout=10)
            choose(first, "one")
            g.until(lambda r: r.gateway.scheduler.queued == 1)
            choose(second, "two")
            g.until(lambda r: r.gateway.scheduler.queued == 2)
            one.go.set()
            assert busy.reply().status == 200
            assert first.reply().status == 200
            assert is_in_use(second.reply())
            assert len(one.requests) == 2
            g.until(lambda r: r.gateway.in_flight == 0 and r.gateway.scheduler.queued == 0)
            assert choose(second, "two", own="resp_mine").reply().status == 200


def test_a_caller_that_leaves_keeps_it() -> None:
    """Its engine may have stored the response, or be about to."""
    with engine(held) as one, before(one) as g, Caller(g.port) as second:
        with Caller(g.port) as first:
            choose(first, "one")
            one.arrived.get(timeout=10)
        g.until(lambda r: r.gateway.in_flight == 0)
        assert is_in_use(choose(second, "two").reply())


def test_a_retry_takes_it_to_the_engine_that_answers() -> None:
    down = ok("{}", status="503 Service Unavailable")
    with engine(down) as a, engine(ok(MADE)) as b, before(a, b) as g, Caller(g.port) as caller:
        for _ in range(2):
            assert choose(caller, "one").reply().headers["x-sage-instance"] == "e1"
        assert read(g, "one").headers["x-sage-instance"] == "e1"


def test_one_tenant_may_choose_it_again() -> None:
    with engine(held) as one, before(one) as g, Caller(g.port) as first, Caller(g.port) as second:
        choose(first, "one")
        choose(second, "one")
        for _ in range(2):
            one.arrived.get(timeout=10)
        one.go.set()
        assert [first.reply().status, second.reply().status] == [200, 200]
        assert g.ask(lambda r: len(r.gateway.responses)) == 1


@pytest.mark.parametrize("own", ["a/b", "", "..", "x" * 257])
def test_one_that_is_no_response_id_is_the_engines_to_judge(own: str) -> None:
    refuses = raw("HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}")
    with engine(refuses) as one, before(one) as g, Caller(g.port) as caller:
        for tenant in ("one", "two"):
            assert choose(caller, tenant, own=own).reply().status == 400
        assert g.ask(lambda r: len(r.gateway.responses)) == 0
