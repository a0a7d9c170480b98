"""Requests of a model that a prefilling and a decoding instance share: both legs, and what goes wrong in each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from sage_inference.cli.schemas import ATTEMPT
from sage_inference.config.settings import InstanceSettings, TimeoutSettings
from tests.cli.shape import mistakes
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, post

TOLD_S = 0.1
PARAMS = {
    "do_remote_prefill": True,
    "remote_block_ids": [[1, 2]],
    "remote_engine_id": "p",
    "remote_host": "h",
}
PREFILLED = ok(
    json.dumps({"kv_transfer_params": PARAMS, "usage": {"prompt_tokens": 5, "completion_tokens": 1}})
)
ANSWERED = ok('{"choices":[]}')
SAYS_NOTHING = ok('{"kv_transfer_params":null}')
BUSY = ok("{}", "retry-after: 7", status="503 Service Unavailable")
BROKEN = ok('{"error":{"code":500}}', status="500 Internal Server Error")
CLOSED = raw(b"", then="close")
STREAM = sse('{"a":1}', '{"a":2}', "[DONE]") + b"0\r\n\r\n"
SPOILED = sse('{"error": {"code": 500}}', "[DONE]") + b"0\r\n\r\n"
GOES_ON = raw(SPOILED[:-5], then="silent")


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


@contextmanager
def fleet(**kinds: tuple[RogueEngine, str]) -> Iterator[InProcess]:
    """Engines by name, each with its kind; every gateway is left with nothing in flight."""
    entries = [InstanceSettings(url=e.url, name=name, kind=kind) for name, (e, kind) in kinds.items()]
    with gateway(*entries, timeouts=TimeoutSettings(first_byte_s=1.5)) as g:
        yield g
        nothing_left(g)


@contextmanager
def full_pair(p: RogueEngine, d: RogueEngine) -> Iterator[InProcess]:
    """The decoding instance has one slot, and a request in it."""
    one = InstanceSettings(url=d.url, name="d", kind="decoding", max_concurrent_requests=1)
    with p, d, gateway(InstanceSettings(url=p.url, name="p", kind="prefilling"), one) as g:
        with Caller(g.port) as first:
            first.chat()
            d.arrived.get(timeout=5)
            yield g
        nothing_left(g)


def nothing_left(g: InProcess) -> None:
    g.until(
        lambda r: (
            (r.gateway.in_flight, r.gateway.scheduler.queued) == (0, 0)
            and not any(i.load.pending_tokens for i in r.gateway.registry.instances.values())
        )
    )


def body_of(request: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return found


def attempts(g: InProcess, request_id: str) -> list[tuple[str, str | None, str, int]]:
    with httpx.Client(trust_env=False, verify=False) as client:
        answer = client.get(f"{g.url}/admin/decisions/{request_id}", headers=ADMIN)
        found = answer.raise_for_status().json()["attempts"]
    assert [mistakes(each, ATTEMPT) for each in found] == [[]] * len(found)
    return [(each["instance"], each["leg"], each["outcome"], each["status"]) for each in found]


def pair(prefilling: Answer, decoding: Answer, *more: Answer) -> Any:
    return RogueEngine(prefilling), RogueEngine(decoding, *more)


def test_the_prompt_goes_to_one_and_the_rest_to_the_other() -> None:
    p, d = pair(PREFILLED, ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        sent = {"max_tokens": 9, "max_completion_tokens": 8, "min_tokens": 2, "stop": ["x"]}
        reply = c.chat("x-request-id: mine", "x-sage-why: 1", "accept-encoding: gzip", **sent).reply()
        assert (reply.status, reply.body) == (200, b'{"choices":[]}')
        assert reply.headers["x-sage-instance"] == "d"
        assert reply.headers["x-sage-prefill-instance"] == "p"
        why = "prefill p: only instance; predicted: p 0 ms | decode d: only instance; predicted: d 0 ms"
        assert reply.headers["x-sage-why"] == why
        first, second = body_of(p.requests[0]), body_of(d.requests[0])
        assert (first["max_tokens"], first["max_completion_tokens"], first["stream"]) == (1, 1, False)
        assert first["kv_transfer_params"]["do_remote_decode"] is True
        assert "min_tokens" not in first
        assert b"gzip" not in p.requests[0]
        assert b"x-request-id: mine" in p.requests[0]
        assert second == {**second, **sent, "kv_transfer_params": PARAMS}
        assert "stream" not in second
        assert b"gzip" in d.requests[0]
        assert attempts(g, "mine") == [("p", "prefill", "prefilled", 200), ("d", "decode", "done", 200)]
        assert g.ask(lambda r: r.gateway.stats.total) == 1


def test_a_stream_comes_through_byte_for_byte() -> None:
    p, d = pair(PREFILLED, raw(STREAM))
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        for _ in range(3):
            reply = c.chat(stream=True, stream_options={"include_usage": True}).reply()
            assert reply.complete
            assert reply.body == b'data: {"a":1}\n\ndata: {"a":2}\n\ndata: [DONE]\n\n'
        assert "stream_options" not in body_of(p.requests[0])
        assert body_of(d.requests[0])["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "failing", [BUSY, CLOSED, raw(b"nonsense\r\n\r\n")], ids=["503", "closed", "garbage"]
)
def test_a_prompt_that_fails_goes_to_another_prefilling_instance(failing: Answer) -> None:
    p, d = pair(failing, ANSWERED)
    with RogueEngine(PREFILLED) as q, p, d:
        with fleet(p=(p, "prefilling"), q=(q, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
            for number in range(4):
                reply = c.chat(f"x-request-id: r{number}").reply()
                assert (reply.status, reply.headers["x-sage-prefill-instance"]) == (200, "q")
            assert all("kv_transfer_params" in body_of(each) for each in d.requests)


@pytest.mark.parametrize(
    "failing",
    [BUSY, CLOSED, BROKEN, SAYS_NOTHING, ok("[]")],
    ids=["503", "closed", "500", "silent", "no object"],
)
def test_where_no_other_can_work_off_the_prompt_the_decoding_one_does(failing: Answer) -> None:
    p, d = pair(failing, ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        assert c.chat("x-request-id: r", n=1).reply().status == 200
        assert "kv_transfer_params" not in body_of(d.requests[0])
        assert [leg for _, leg, _, _ in attempts(g, "r")] == ["prefill", None]


def test_what_a_prefilling_instance_refuses_the_decoding_one_gets_to_refuse() -> None:
    p, d = pair(ok("no", status="400 Bad Request"), ok('{"why":"so"}', status="400 Bad Request"))
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        reply = c.chat().reply()
        assert (reply.status, reply.body, reply.headers["x-sage-instance"]) == (400, b'{"why":"so"}', "d")
        assert g.ask(lambda r: r.gateway.scheduler.rates.retried) == 0


@pytest.mark.parametrize("failing", [BUSY, CLOSED], ids=["503", "closed"])
def test_where_the_decoding_one_fails_the_prompt_is_done_again_for_another(failing: Answer) -> None:
    p, d = pair(PREFILLED, failing)
    with RogueEngine(ANSWERED) as e, p, d:
        with fleet(p=(p, "prefilling"), d=(d, "decoding"), e=(e, "decoding")) as g, Caller(g.port) as c:
            found = []
            for number in range(4):
                assert c.chat(f"x-request-id: r{number}").reply().headers["x-sage-instance"] == "e"
                found.append([leg for _, leg, _, _ in attempts(g, f"r{number}")])
            assert ["prefill", "decode", "prefill", "decode"] in found
            assert all(body_of(each)["kv_transfer_params"] == PARAMS for each in e.requests)


def test_the_last_decoding_ones_503_is_passed_on_with_its_retry_after() -> None:
    p, d = pair(PREFILLED, BUSY)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        reply = c.chat().reply()
        assert (reply.status, reply.headers["retry-after"], len(d.requests)) == (503, "7", 1)


@pytest.mark.parametrize(
    ("failing", "then"),
    [(BROKEN, ANSWERED), (raw(SPOILED), raw(STREAM)), (GOES_ON, raw(STREAM))],
    ids=["plain", "streamed", "stream goes on"],
)
def test_blocks_that_could_not_be_had_are_computed_by_the_decoding_one(failing: Answer, then: Answer) -> None:
    p, d = pair(PREFILLED, failing, then)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        reply = c.chat("x-request-id: r", stream=failing is not BROKEN).reply()
        assert (reply.status, b"error" in reply.body) == (200, False)
        if failing is GOES_ON:
            d.left.get(timeout=TOLD_S)
        assert ["kv_transfer_params" in body_of(each) for each in d.requests] == [True, False]
        assert [leg for _, leg, _, _ in attempts(g, "r")] == ["prefill", "decode", None]
        assert g.ask(lambda r: (r.gateway.stats.handed_over, r.gateway.stats.handover_failures)) == (1, 1)


def test_a_request_that_breaks_every_engine_is_tried_once_in_each_way() -> None:
    p, d = pair(PREFILLED, BROKEN)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        assert c.chat().reply().status == 500
        assert (len(p.requests), len(d.requests)) == (1, 2)


def test_once_a_byte_was_delivered_nothing_is_sent_again() -> None:
    p, d = pair(PREFILLED, raw(sse('{"a":1}'), then="reset"))
    with RogueEngine(*d.answers) as e, p, d:
        with fleet(p=(p, "prefilling"), d=(d, "decoding"), e=(e, "decoding")) as g, Caller(g.port) as c:
            rest = c.chat(stream=True).rest()
            assert b'{"a":1}' in rest
            assert b"DONE" not in rest
            assert (len(p.requests), len(d.requests + e.requests)) == (1, 1)


@pytest.mark.parametrize("leg", ["prefill", "decode", "stream"])
def test_who_leaves_is_told_to_the_engine_at_work_at_once(leg: str) -> None:
    p, d = pair(
        hang if leg == "prefill" else PREFILLED, hang if leg == "decode" else raw(sse("1"), then="silent")
    )
    at_work = p if leg == "prefill" else d
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g:
        with Caller(g.port) as c:
            c.chat(stream=True)
            at_work.arrived.get(timeout=5)
            if leg == "stream":
                assert c.head().status == 200
        at_work.left.get(timeout=TOLD_S)
        nothing_left(g)
        assert g.ask(lambda r: r.gateway.stats.cancelled) == 1
        assert len(d.requests) == (leg != "prefill")


def test_who_leaves_between_the_legs_reaches_no_decoding_instance() -> None:
    p, d = RogueEngine(PREFILLED), RogueEngine(hang)
    with full_pair(p, d) as g, Caller(g.port) as second:
        second.chat()
        g.until(lambda r: r.gateway.scheduler.queued == 1)
        counts = g.ask(lambda r: [i.active_requests for i in r.gateway.registry.instances.values()])
        assert counts == [0, 1]  # one slot at a time
        second.sock.close()
        g.until(lambda r: r.gateway.scheduler.queued == 0)
    assert (len(p.requests), len(d.requests)) == (2, 1)


def test_one_time_to_the_first_byte_covers_both_legs() -> None:
    def late(wire: Wire) -> None:
        wire.engine.go.wait(1.0)
        PREFILLED(wire)

    p, d = pair(late, hang)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        began = time.monotonic()
        reply = c.chat().reply()
        assert (reply.status, reply.headers["x-sage-instance"]) == (504, "d")
        assert time.monotonic() - began < 2.2  # not 1.0 and then 1.5
        d.left.get(timeout=1)


@pytest.mark.parametrize("leg", ["prefill", "decode"])
def test_a_silent_engine_is_a_504(leg: str) -> None:
    p, d = pair(hang if leg == "prefill" else PREFILLED, hang)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        reply = c.chat().reply()
        assert (reply.status, reply.headers["x-sage-instance"]) == (504, leg[0])


ALL_IDS = {"model": "m", "prompt": [1, 2, 3]}
SEVERAL = [
    {"model": "m", "prompt": ["a", "b"]},
    {"model": "m", "prompt": [[1], [2]]},
    {"model": "m", "prompt": "a", "n": 2},
    {"model": "m", "prompt": "a", "best_of": 2},
    {"model": "m", "prompt": "a", "echo": True},
    {"model": "m", "prompt": "a", "prompt_logprobs": 0},
]


@pytest.mark.parametrize("body", SEVERAL, ids=["texts", "ids", "n", "best_of", "echo", "prompt_logprobs"])
def test_what_cannot_be_handed_over_goes_whole_to_the_decoding_one(body: dict[str, Any]) -> None:
    p, d = pair(PREFILLED, ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        sent = json.dumps(body).encode()
        assert c.send(post("/v1/completions", sent)).reply().status == 200
        assert d.requests[0].endswith(sent)
        assert not p.requests
        assert c.send(post("/v1/completions", json.dumps(ALL_IDS).encode())).reply().status == 200
        assert len(p.requests) == 1


@pytest.mark.parametrize("other", ["llm", "mixed"])
@pytest.mark.parametrize("missing", ["p", "d"])
def test_an_instance_that_does_all_steps_in_for_a_missing_half(other: str, missing: str) -> None:
    p, d = pair(PREFILLED, ANSWERED)
    with RogueEngine(ANSWERED) as whole, p, d:
        with fleet(p=(p, "prefilling"), d=(d, "decoding"), w=(whole, other)) as g, Caller(g.port) as c:
            assert c.chat().reply().headers["x-sage-instance"] == "d"
            (p if missing == "p" else d).refuse()
            for _ in range(3):  # the first finds out
                assert c.chat().reply().headers["x-sage-instance"] == "w"
            assert len(p.requests) == (1 if missing == "p" else 2)


def test_a_draining_half_is_given_nothing() -> None:
    p, d = pair(PREFILLED, ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        g.ask(lambda r: r.fleet.drain("p"))
        assert c.chat().reply().status == 200
        assert not p.requests
        g.ask(lambda r: r.fleet.drain("d"))
        reply = c.chat().reply()
        assert (reply.status, reply.error["code"]) == (503, "no_healthy_instance")


def test_prefilling_instances_alone_answer_nobody() -> None:
    with RogueEngine(PREFILLED) as p, fleet(p=(p, "prefilling")) as g, Caller(g.port) as c:
        reply = c.chat().reply()
        assert (reply.status, reply.error["code"]) == (503, "no_healthy_instance")
        assert "only prefilling instances serve" in reply.error["message"]
        assert "retry-after" in reply.headers


def test_a_callers_own_params_are_refused_of_a_paired_model_and_passed_on_to_any_other() -> None:
    p, d = pair(PREFILLED, ANSWERED)
    with RogueEngine(ANSWERED, model="n") as other, p, d:
        with fleet(p=(p, "prefilling"), d=(d, "decoding"), o=(other, "llm")) as g, Caller(g.port) as c:
            reply = c.chat(kv_transfer_params=PARAMS).reply()
            assert (reply.status, reply.error["param"]) == (400, "kv_transfer_params")
            broken = b'{"model":"m","messages":[],"kv_transfer_params":{},"user":"\\ud800"}'
            assert c.send(post(CHAT, broken)).reply().status == 400
            responses = json.dumps({"model": "m", "input": "hi", "kv_transfer_params": PARAMS}).encode()
            assert c.send(post("/v1/responses", responses)).reply().status == 400
            assert not p.requests + d.requests
            assert c.chat(kv_transfer_params=None).reply().status == 200
            sent = json.dumps({"model": "n", "messages": [], "kv_transfer_params": PARAMS}).encode()
            assert c.send(post(CHAT, sent)).reply().status == 200
            assert other.requests[0].endswith(sent)


def test_a_prompts_answer_may_name_very_many_blocks() -> None:
    blocks = list(range(100_000, 160_000))
    p, d = pair(ok(json.dumps({"kv_transfer_params": {**PARAMS, "remote_block_ids": [blocks]}})), ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        assert c.chat().reply().status == 200
        assert body_of(d.requests[0])["kv_transfer_params"]["remote_block_ids"] == [blocks]


def test_a_prompts_answer_without_end_is_not_waited_for() -> None:
    def endless(wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            wire.send(chunk(b"x" * 65536))

    p, d = pair(endless, ANSWERED)
    with p, d, fleet(p=(p, "prefilling"), d=(d, "decoding")) as g, Caller(g.port) as c:
        assert c.chat().reply().status == 200
        assert "kv_transfer_params" not in body_of(d.requests[0])


def test_who_waits_for_the_decoding_side_is_told_for_how_long_or_that_it_was_too_long() -> None:
    def held(wire: Wire) -> None:
        wire.engine.go.wait(20)
        ANSWERED(wire)

    def late(wire: Wire) -> None:
        wire.engine.go.wait(0.4)
        PREFILLED(wire)

    p, d = pair(late, held)
    one = InstanceSettings(url=d.url, name="d", kind="decoding", max_concurrent_requests=1)
    other = InstanceSettings(url=p.url, name="p", kind="prefilling")
    with p, d, gateway(one, other, timeouts=TimeoutSettings(queue_s=1.0)) as g:
        with Caller(g.port) as first, Caller(g.port) as second:
            first.chat()
            d.arrived.get(timeout=5)
            assert second.chat().reply().status == 429
            began = time.monotonic()
            second.chat()
            g.until(lambda r: r.gateway.scheduler.queued == 1)
            d.go.set()
            reply = second.reply()
            took_ms = (time.monotonic() - began) * 1000
            assert (reply.status, first.reply().status) == (200, 200)
            assert 0 <= int(reply.headers["x-sage-queue-ms"]) < took_ms - 300
        nothing_left(g)


def test_a_deadline_that_passes_between_the_legs_is_429() -> None:
    p, d = RogueEngine(PREFILLED), RogueEngine(hang)
    with full_pair(p, d) as g, Caller(g.port) as second:
        reply = second.chat("x-sage-deadline-ms: 60").reply()
        assert (reply.status, reply.error["code"]) == (429, "deadline_exceeded")
    assert len(p.requests) == 2
