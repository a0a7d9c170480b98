"""The spans of embedding requests: alone, merged with others', joined, and after a failure."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sage_inference.config.settings import InstanceSettings
from tests.support.collector import Collector, Seen
from tests.support.inprocess import InProcess
from tests.support.rogue import RogueEngine, Wire, ok, raw
from tests.support.tracing import header_of, one, spans_of, traced_gateway, traceparent
from tests.support.wire import Caller, post

ROUTE = "/v1/embeddings"
CALL = f"POST {ROUTE}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def embed(*texts: str) -> bytes:
    return json.dumps({"model": "m", "input": list(texts)}).encode()


def vectors(wire: Wire) -> None:
    texts = json.loads(wire.body)["input"]
    data = [{"object": "embedding", "index": n, "embedding": [0.5, 0.25]} for n in range(len(texts))]
    usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
    ok(json.dumps({"object": "list", "data": data, "model": "m-2", "usage": usage}))(wire)


def held(wire: Wire) -> None:
    wire.engine.go.wait(10)
    vectors(wire)


def only(engine: RogueEngine) -> InstanceSettings:
    return InstanceSettings(url=engine.url, name="only", kind="embedding")


def wait_for_texts(door: InProcess, jobs: int) -> None:
    door.until(lambda running: running.gateway.embeddings.batcher.jobs == jobs)


def ended(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.name == "embeddings m"]


def test_a_request_alone_is_its_own_call(collector: Collector) -> None:
    with (
        RogueEngine(vectors) as engine,
        traced_gateway(collector, only(engine)) as door,
        Caller(door.port) as caller,
    ):
        assert caller.send(post(ROUTE, embed("a", "b"), traceparent())).reply().status == 200
        spans = spans_of(door, collector)
        [sent] = header_of(engine.requests[0], "traceparent")
    request, attempt = one(spans, "embeddings m"), one(spans, CALL)
    assert sent[36:52] == attempt.span_id
    assert (attempt.parent_id, attempt.links) == (request.span_id, [])
    assert request.facts["gen_ai.operation.name"] == "embeddings"
    assert request.facts["gen_ai.usage.input_tokens"] == 6
    assert request.facts["gen_ai.response.model"] == "m-2"
    assert request.facts["sage.texts"] == 2
    assert request.facts.get("gen_ai.usage.output_tokens", 0) == 0


def test_a_merged_call_is_one_span_linked_to_every_request(collector: Collector) -> None:
    with RogueEngine(held, held, vectors) as engine, traced_gateway(collector, only(engine)) as door:
        callers = [Caller(door.port) for _ in range(5)]
        for number, caller in enumerate(callers):
            caller.send(post(ROUTE, embed(f"text {number}")))
            wait_for_texts(door, number + 1)
        engine.go.set()
        assert {caller.reply().status for caller in callers} == {200}
        spans = spans_of(door, collector)
        got = [header_of(request, "traceparent")[0] for request in engine.requests]
        for caller in callers:
            caller.sock.close()
    requests = ended(spans)
    assert len(requests) == 5
    assert len({request.trace_id for request in requests}) == 5
    calls = [span for span in spans if span.name == CALL]
    merged = [span for span in calls if len(span.links) > 1]
    assert len(merged) >= 1
    for call in merged:
        assert f"00-{call.trace_id}-{call.span_id}-03" in got
        assert call.facts["sage.call.requests"] == len(call.links) + 1
        linked = {link for span in calls if span is not call for link in span.links}
        assert (call.trace_id, call.span_id) in linked
        for (
            trace_id,
            span_id,
        ) in call.links:  # the others' requests, which link to the call in their own traces
            [request] = [each for each in requests if each.span_id == span_id]
            [own] = [
                span for span in calls if span.trace_id == trace_id and span.parent_id == request.span_id
            ]
            assert own.links == [(call.trace_id, call.span_id)]
            assert (own.start, own.end) == (call.start, call.end)
    assert len(got) == len({each[36:52] for each in got}) < len(requests)
    assert sum(request.facts["gen_ai.usage.input_tokens"] for request in requests) == 15
    assert any(span.name == "queue" for span in spans)


def test_who_joins_a_call_under_way_is_linked_to_it(collector: Collector) -> None:
    with (
        RogueEngine(held) as engine,
        traced_gateway(collector, only(engine)) as door,
        Caller(door.port) as first,
        Caller(door.port) as second,
    ):
        first.send(post(ROUTE, embed("same"), "x-request-id: first"))
        engine.arrived.get(timeout=5)
        second.send(post(ROUTE, embed("same"), "x-request-id: second"))
        wait_for_texts(door, 2)
        engine.go.set()
        assert first.reply().status == second.reply().status == 200
        spans = spans_of(door, collector)
        [sent] = [header_of(request, "traceparent")[0] for request in engine.requests]
    by_id = {span.facts["sage.request_id"]: span for span in ended(spans)}
    owner, other = by_id["first"], by_id["second"]
    call = next(span for span in spans if span.span_id == sent[36:52])
    assert (call.parent_id, call.links) == (owner.span_id, [(other.trace_id, other.span_id)])
    [own] = [span for span in spans if span.name == CALL and span.trace_id == other.trace_id]
    assert (own.parent_id, own.links) == (other.span_id, [(call.trace_id, call.span_id)])


def test_requests_that_are_not_sampled_leave_nothing_in_a_shared_call(collector: Collector) -> None:
    with (
        RogueEngine(held) as engine,
        traced_gateway(collector, only(engine)) as door,
        Caller(door.port) as first,
        Caller(door.port) as second,
    ):
        first.send(post(ROUTE, embed("same"), traceparent("00")))
        engine.arrived.get(timeout=5)
        second.send(post(ROUTE, embed("same")))
        wait_for_texts(door, 2)
        engine.go.set()
        assert first.reply().status == second.reply().status == 200
        spans = spans_of(door, collector)
        assert header_of(engine.requests[0], "traceparent")[0].endswith("-00")
    [request] = ended(spans)
    assert {span.trace_id for span in spans} == {request.trace_id}
    assert [span.parent_id for span in spans if span.name == CALL] == [request.span_id]


def test_a_call_that_failed_and_its_repetition_are_two_spans(collector: Collector) -> None:
    with (
        RogueEngine(raw(b"", then="reset"), vectors) as first,
        RogueEngine(raw(b"", then="reset"), vectors) as second,
        traced_gateway(
            collector,
            InstanceSettings(url=first.url, name="a", kind="embedding"),
            InstanceSettings(url=second.url, name="b", kind="embedding"),
        ) as door,
        Caller(door.port) as caller,
    ):
        reply = caller.send(post(ROUTE, embed("x"))).reply()
        spans = spans_of(door, collector)
        sent = {header_of(r, "traceparent")[0][36:52] for e in (first, second) for r in e.requests}
    calls = [span for span in spans if span.name == CALL]
    assert {span.span_id for span in calls} == sent
    assert len(sent) == 2
    assert "closed" in {span.facts.get("error.type") for span in calls}
    [request] = ended(spans)
    assert request.facts["http.response.status_code"] == reply.status
    assert {span.parent_id for span in calls} == {request.span_id}


def test_a_caller_who_leaves_a_shared_call_is_cancelled_alone(collector: Collector) -> None:
    with (
        RogueEngine(held) as engine,
        traced_gateway(collector, only(engine)) as door,
        Caller(door.port) as first,
        Caller(door.port) as second,
    ):
        first.send(post(ROUTE, embed("same"), "x-request-id: first"))
        engine.arrived.get(timeout=5)
        second.send(post(ROUTE, embed("same"), "x-request-id: second"))
        wait_for_texts(door, 2)
        first.sock.close()
        wait_for_texts(door, 1)
        engine.go.set()
        assert second.reply().status == 200
        spans = spans_of(door, collector)
    by_id = {span.facts["sage.request_id"]: span for span in ended(spans)}
    assert by_id["first"].facts["error.type"] == "cancelled"
    assert "error.type" not in by_id["second"].facts
    calls = [span for span in spans if span.name == CALL]
    assert {span.parent_id for span in calls} == {by_id["first"].span_id, by_id["second"].span_id}
