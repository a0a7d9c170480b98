"""The spans of requests, as a collector gets them, and the trace context that engines get."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings, SchedulingSettings
from tests.support.collector import KINDS, Collector
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, ok, raw, sse
from tests.support.tracing import PARENT, TRACE, flush, header_of, one, spans_of, traced_gateway, traceparent
from tests.support.wire import CHAT, Caller, post

SECRET = "the words of a prompt"
ANSWER = "the words of an answer"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def completion(model: str = "m-2") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "length"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps(
        {"object": "chat.completion", "choices": [choice], "model": model, "usage": usage}
    ).encode()


def event(**fields: object) -> str:
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m-2", **fields})


def stream() -> bytes:
    events = [
        event(choices=[{"index": 0, "delta": {"content": ANSWER}, "finish_reason": None}]),
        event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}),
        "[DONE]",
    ]
    return sse(*events) + b"0\r\n\r\n"


def test_a_streamed_chat_is_a_request_a_decision_and_an_attempt(collector: Collector) -> None:
    with (
        RogueEngine(raw(stream())) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": SECRET}]})
        assert (
            caller.send(post(CHAT, body.encode(), traceparent(), "tracestate: a=1, b=2")).reply().status
            == 200
        )
        spans = spans_of(door, collector)
        [got] = engine.requests
    assert len(spans) == 3
    request, decision, attempt = (one(spans, name) for name in ("chat m", "decision", f"POST {CHAT}"))
    assert {span.trace_id for span in spans} == {TRACE}
    assert (request.parent_id, request.remote_parent, request.kind) == (PARENT, True, KINDS.SPAN_KIND_SERVER)
    assert attempt.parent_id == decision.parent_id == request.span_id
    assert header_of(got, "traceparent") == [f"00-{TRACE}-{attempt.span_id}-01"]
    assert header_of(got, "tracestate") == ["a=1,b=2"]
    assert attempt.kind == KINDS.SPAN_KIND_CLIENT
    assert (
        request.facts.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m-2",
            "gen_ai.request.stream": True,
            "gen_ai.usage.input_tokens": 5,
            "gen_ai.usage.output_tokens": 2,
            "http.response.status_code": 200,
            "http.route": CHAT,
            "sage.outcome": "done",
        }.items()
    )
    assert request.facts["gen_ai.response.finish_reasons"] == ["stop"]
    assert 0 < request.facts["gen_ai.response.time_to_first_chunk"] < 10
    assert attempt.facts["server.address"] == "127.0.0.1"
    assert attempt.facts["server.port"] == engine.port
    assert attempt.events == request.events == ["first_byte"]
    assert request.start <= decision.start <= decision.end <= attempt.start
    assert attempt.start < attempt.event_times[0] <= attempt.end <= request.end
    assert not request.failed
    assert not attempt.failed
    assert decision.facts["sage.instance"] == attempt.facts["sage.instance"] == "e0"
    assert "error.type" not in request.facts | attempt.facts
    assert request.resource["service.name"] == "sage-inference"


def test_no_text_is_in_a_trace(collector: Collector) -> None:
    with (
        RogueEngine(ok(completion())) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        body = json.dumps(
            {"model": "m", "user": "SomeUser", "messages": [{"role": "user", "content": SECRET}]}
        )
        caller.send(post(CHAT, body.encode(), "authorization: Bearer sk-caller")).reply()
        flush(door)
        sent, request = b"".join(collector.raw), one(collector.spans, "chat m")
    assert request.facts["gen_ai.response.finish_reasons"] == ["length"]
    assert len(sent) > 300
    for text in (SECRET, ANSWER, "SomeUser", "sk-caller"):
        assert text.encode() not in sent


# The context that callers send, and the choice of requests


@pytest.mark.parametrize(
    ("flags", "sample", "spans"),
    [("01", 0.0, 3), ("00", 1.0, 0), ("03", 0.0, 3), (None, 0.0, 0), (None, 1.0, 3)],
    ids=["sampled", "not sampled", "sampled and random", "no caller, none", "no caller, all"],
)
def test_the_caller_decides_and_otherwise_the_share(
    collector: Collector, flags: str | None, sample: float, spans: int
) -> None:
    with (
        RogueEngine(ok(completion())) as engine,
        traced_gateway(collector, engine, sample=sample) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat(*([traceparent(flags)] if flags else [])).reply().status == 200
        found = spans_of(door, collector)
        [sent] = header_of(engine.requests[0], "traceparent")
    version, trace_id, span_id, sent_flags = sent.split("-")
    assert (version, len(trace_id), len(span_id)) == ("00", 32, 16)
    assert len(found) == spans
    assert int(sent_flags, 16) & 1 == bool(spans)
    assert span_id != PARENT
    if flags:
        assert trace_id == TRACE
    if spans:
        assert span_id == one(found, f"POST {CHAT}").span_id
        assert bool(one(found, "chat m").parent_id) is bool(flags)


@pytest.mark.parametrize(
    "headers",
    [
        [f"traceparent: 00-{TRACE.upper()}-{PARENT}-01"],
        [f"traceparent: 00-{'0' * 32}-{PARENT}-01"],
        [f"traceparent: 00-{TRACE}-{'0' * 16}-01"],
        [f"traceparent: ff-{TRACE}-{PARENT}-01"],
        [f"traceparent: 00-{TRACE}-{PARENT}-01-more"],
        [f"traceparent: 00-{TRACE}-{PARENT}-1"],
        ["traceparent: nonsense"],
        ["traceparent:"],
        [traceparent(), traceparent()],
    ],
)
def test_a_broken_context_begins_a_new_trace(collector: Collector, headers: list[str]) -> None:
    with (
        RogueEngine(ok(completion())) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat(*headers, "tracestate: a=1").reply().status == 200
        request = one(spans_of(door, collector), "chat m")
        [got] = engine.requests
    assert request.trace_id != TRACE
    assert request.parent_id == ""
    assert header_of(got, "traceparent") == [
        f"00-{request.trace_id}-{header_of(got, 'traceparent')[0][36:52]}-03"
    ]
    assert header_of(got, "tracestate") == []


def test_without_tracing_the_context_passes_as_it_came() -> None:
    with RogueEngine(ok(completion())) as engine, gateway(engine) as door, Caller(door.port) as caller:
        caller.chat("traceparent: nonsense", "tracestate: a=1", "TraceState: b=2").reply()
        [got] = engine.requests
        assert door.ask(lambda one: one.gateway.tracer) is None
    assert header_of(got, "traceparent") == ["nonsense"]
    assert header_of(got, "tracestate") == ["a=1", "b=2"]


# Attempts


def test_each_attempt_has_a_span_of_its_own_and_engines_get_its_id(collector: Collector) -> None:
    busy = ok("{}", status="503 Service Unavailable")
    with (
        RogueEngine(raw(b"", then="reset"), ok(completion())) as first,
        RogueEngine(busy, ok(completion())) as second,
        traced_gateway(collector, first, second, scheduling=SchedulingSettings(policy="round_robin")) as door,
        Caller(door.port) as caller,
    ):
        door.until(lambda one: one.gateway.can_serve)
        reply = caller.chat().reply()
        spans = spans_of(door, collector)
        got = [header_of(request, "traceparent")[0] for e in (first, second) for request in e.requests]
    attempts = sorted((span for span in spans if span.name.startswith("POST")), key=lambda span: span.start)
    request = one(spans, "chat m")
    assert len(attempts) == 2
    assert {f"00-{request.trace_id}-{span.span_id}-03" for span in attempts} == set(got)
    assert [span.parent_id for span in attempts] == [request.span_id] * 2
    assert attempts[0].failed
    assert attempts[1].facts["http.request.resend_count"] == 1
    ended = attempts[1].facts.get("error.type"), request.facts.get("error.type"), reply.status
    assert attempts[0].facts["error.type"] in ("closed", "503")
    assert attempts[0].facts["sage.outcome"] == "retried"
    assert ended in ((None, None, 200), ("503", "503", 503), ("closed", "upstream_error", 502))
    assert attempts[0].end <= attempts[1].start


def test_a_killed_engine_is_an_attempt_that_was_refused(collector: Collector) -> None:
    with (
        RogueEngine(ok(completion())) as dead,
        RogueEngine(ok(completion())) as alive,
        traced_gateway(collector, dead, alive, scheduling=SchedulingSettings(policy="round_robin")) as door,
        Caller(door.port) as caller,
    ):
        dead.refuse()
        for _ in range(2):
            assert caller.chat().reply().status == 200
        spans = spans_of(door, collector)
    [failed] = [span for span in spans if span.failed]
    assert failed.facts["error.type"] == "refused"
    assert failed.facts["sage.instance"] == "e0"
    [again] = [span for span in spans if "http.request.resend_count" in span.facts]
    assert (again.trace_id, again.parent_id) == (failed.trace_id, failed.parent_id)
    assert again.facts["sage.instance"] == "e1"


def test_both_legs_of_a_split_request_are_attempts(collector: Collector) -> None:
    params = {
        "do_remote_prefill": True,
        "remote_block_ids": [[1]],
        "remote_engine_id": "p",
        "remote_host": "h",
    }
    prefilled = {"kv_transfer_params": params, "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    with (
        RogueEngine(ok(json.dumps(prefilled))) as p,
        RogueEngine(ok(completion())) as d,
        traced_gateway(
            collector,
            InstanceSettings(url=p.url, name="p", kind="prefilling"),
            InstanceSettings(url=d.url, name="d", kind="decoding"),
        ) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat(traceparent()).reply().status == 200
        spans = spans_of(door, collector)
        got = [header_of(each.requests[0], "traceparent")[0] for each in (p, d)]
    prefill, decode = (
        next(s for s in spans if s.facts.get("sage.leg") == leg) for leg in ("prefill", "decode")
    )
    assert got == [f"00-{TRACE}-{span.span_id}-01" for span in (prefill, decode)]
    assert (prefill.facts["sage.outcome"], decode.facts["sage.outcome"]) == ("prefilled", "done")
    assert not any(span.failed for span in spans)
    assert one(spans, "chat m").facts["gen_ai.usage.output_tokens"] == 3


# Other ends


def test_a_refused_request_has_one_span_with_its_code(collector: Collector) -> None:
    with (
        RogueEngine(ok(completion())) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat(model="any-name").reply().status == 404
        [request] = spans_of(door, collector)
    assert request.name == "chat"  # a name of a caller's own is in no name of a span
    assert request.facts["error.type"] == "model_not_found"
    assert request.facts["http.response.status_code"] == 404
    assert not request.failed  # by the conventions, a server does not fail by an error of its caller


def test_a_refused_key_leaves_no_span(collector: Collector) -> None:
    keys = (ApiKeySettings(key=Secret("right"), name="lab"),)
    with (
        RogueEngine(ok(completion())) as engine,
        traced_gateway(collector, engine, api_keys=keys) as door,
        Caller(door.port) as caller,
        Caller(door.port) as other,
    ):
        assert caller.chat(traceparent(), "authorization: Bearer wrong").reply().status == 401
        assert spans_of(door, collector) == []
        assert other.chat(traceparent(), "authorization: Bearer right").reply().status == 200
        assert one(spans_of(door, collector), "chat m").facts["sage.key"] == "lab"


def test_an_engines_error_is_an_error_of_the_attempt(collector: Collector) -> None:
    with (
        RogueEngine(ok('{"error":{"message":"bad"}}', status="400 Bad Request")) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat().reply().status == 400
        spans = spans_of(door, collector)
    assert one(spans, f"POST {CHAT}").facts["error.type"] == one(spans, "chat m").facts["error.type"] == "400"
    assert one(spans, f"POST {CHAT}").failed


def test_a_caller_who_leaves_cancels_request_and_attempt(collector: Collector) -> None:
    with (
        RogueEngine(raw(sse(event(choices=[])), then="silent")) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        assert caller.chat(stream=True).head().status == 200
        caller.sock.close()
        engine.left.get(timeout=5)
        spans = spans_of(door, collector)
    request, attempt = one(spans, "chat m"), one(spans, f"POST {CHAT}")
    assert request.facts["error.type"] == attempt.facts["error.type"] == "cancelled"
    assert request.facts["sage.outcome"] == attempt.facts["sage.outcome"] == "cancelled"
    assert "http.response.status_code" not in request.facts
    assert not request.failed
    assert not attempt.failed


def test_a_stream_that_breaks_off_has_failed(collector: Collector) -> None:
    with (
        RogueEngine(raw(sse(event(choices=[])), then="reset")) as engine,
        traced_gateway(collector, engine) as door,
        Caller(door.port) as caller,
    ):
        assert not caller.chat(stream=True).reply().complete
        spans = spans_of(door, collector)
    request, attempt = one(spans, "chat m"), one(spans, f"POST {CHAT}")
    assert request.failed
    assert attempt.failed
    assert attempt.facts["error.type"] == "closed"
    assert request.facts["sage.outcome"] == "cut"


def test_a_wait_for_a_slot_is_a_span_of_its_own(collector: Collector) -> None:
    def held(wire: Wire) -> None:
        wire.engine.go.wait(10)
        ok(completion())(wire)

    with RogueEngine(held) as engine:
        limited = InstanceSettings(url=engine.url, name="one", kind="llm", max_concurrent_requests=1)
        with (
            traced_gateway(collector, limited) as door,
            Caller(door.port) as first,
            Caller(door.port) as second,
            Caller(door.port) as third,
        ):
            first.chat()
            engine.arrived.get(timeout=5)
            second.chat("x-request-id: second")
            third.chat("x-request-id: third")
            door.until(lambda one: one.gateway.scheduler.queued == 2)
            third.sock.close()
            door.until(lambda one: one.gateway.scheduler.queued == 1)
            time.sleep(0.005)  # a wait under 1 ms is shown as part of the decision
            engine.go.set()
            assert first.reply().status == second.reply().status == 200
            spans = spans_of(door, collector)
    queues = {span.parent_id: span for span in spans if span.name == "queue"}
    requests = {span.facts["sage.request_id"]: span for span in spans if span.name.startswith("chat")}
    assert len(requests) == 3
    waited, left = (queues[requests[name].span_id] for name in ("second", "third"))
    [decision] = [s for s in spans if s.name == "decision" and s.parent_id == waited.parent_id]
    assert waited.start < waited.end <= decision.start
    assert requests["third"].facts["error.type"] == "cancelled"
    assert left.end <= requests["third"].end
    assert len(queues) == 2


def test_a_rerank_has_an_operation_of_its_own(collector: Collector) -> None:
    body = json.dumps({"model": "m", "query": SECRET, "documents": ["a"]}).encode()
    with (
        RogueEngine(ok('{"results":[]}'), routes=("/v1/rerank",)) as engine,
        traced_gateway(collector, InstanceSettings(url=engine.url, name="r")) as door,
        Caller(door.port) as caller,
    ):
        assert caller.send(post("/v1/rerank", body)).reply().status == 200
        request = one(spans_of(door, collector), "rerank m")
    assert request.facts["gen_ai.operation.name"] == "rerank"
    assert "gen_ai.usage.output_tokens" not in request.facts
