"""What a line of the access log says is what the caller got, on every route and at every end."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    ApiKeySettings,
    InstanceSettings,
    LimitSettings,
    LoggingSettings,
    SchedulingSettings,
    TimeoutSettings,
)
from sage_inference.daemon.logfile import JsonFormatter
from sage_inference.types import EngineState
from tests.support.access_lines import Lines
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok, raw, sse
from tests.support.simulators import simulated_engine
from tests.support.tei import FakeTEI, ranked, refusal
from tests.support.wire import Caller, Reply, chat, post

ON = LoggingSettings(access=True)
SECRET = "a text of the caller"
JSON = "content-type: application/json"
TIMEOUTS = TimeoutSettings(first_byte_s=0.4, stream_idle_s=0.4, header_s=0.3, body_s=0.3)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def after(seconds: float, answer: Answer) -> Answer:
    def waits(wire: Wire) -> None:
        time.sleep(seconds)
        answer(wire)

    return waits


def hang(wire: Wire) -> None:
    wire.wait_for_peer_to_leave()


def as_logged(line: dict[str, Any]) -> dict[str, Any]:
    """The line as it stands in the file."""
    record = logging.makeLogRecord({**line, "msg": line["message"], "args": ()})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert SECRET not in text
    found: dict[str, Any] = json.loads(text)
    return found


def agrees(lines: Lines, reply: Reply, took_s: float, path: str) -> dict[str, Any]:
    line = as_logged(lines.one())
    assert line["time"].endswith("Z")
    assert (line["path"], line["status"]) == (path, reply.status)
    assert line["request_id"] == reply.headers["x-request-id"]
    assert line["response_bytes"] == len(reply.body)
    if line.get("total_ms") is not None:
        assert 0 <= line["total_ms"] <= took_s * 1000 + 5
        assert (line.get("first_byte_ms") or 0) <= line["total_ms"]
    assert lines.found.empty()
    return line


def asked(g: InProcess, lines: Lines, path: str, sent: bytes) -> tuple[dict[str, Any], Reply]:
    began = time.monotonic()
    with Caller(g.port) as caller:
        reply = caller.send(post(path, sent, JSON)).reply()
        return agrees(lines, reply, time.monotonic() - began, path), reply


@pytest.fixture(scope="module")
def fleet() -> Iterator[InProcess]:
    with simulated_engine("vllm", "--store-responses") as vllm, simulated_engine("tei") as tei:
        engines = [
            InstanceSettings(url=engine.url, name=name) for engine, name in ((vllm, "llm"), (tei, "tei"))
        ]
        with gateway(*engines, logging=ON) as g:
            g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
            yield g


LLM, EMBEDDER = "simulated-llm", "simulated-embedding"
MESSAGES = [{"role": "user", "content": SECRET}]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
ROUTES: dict[str, tuple[str, bytes, int | None, int | None]] = {
    "chat": ("/v1/chat/completions", body(model=LLM, messages=MESSAGES, max_tokens=5), None, 5),
    "stream": ("/v1/chat/completions", body(model=LLM, messages=MESSAGES, max_tokens=5, **STREAM), None, 5),
    "completion": ("/v1/completions", body(model=LLM, prompt=SECRET, max_tokens=4), None, 4),
    "responses": ("/v1/responses", body(model=LLM, input=SECRET, max_output_tokens=4), None, 4),
    "messages": ("/v1/messages", body(model=LLM, messages=MESSAGES, max_tokens=4), None, 4),
    "embeddings alone": ("/v1/embeddings", body(model=EMBEDDER, input=SECRET), None, None),
    "embeddings in two calls": ("/v1/embeddings", body(model=EMBEDDER, input=[SECRET] * 40), None, None),
    "embeddings as they came": ("/v1/embeddings", body(model=EMBEDDER, input=SECRET, other=1), None, None),
    "TEI's own": ("/embed", body(inputs=SECRET), None, None),
    "TEI's own, several": ("/embed", body(inputs=[SECRET, "b"]), None, None),
}


@pytest.mark.parametrize(("path", "sent", "prompt", "output"), ROUTES.values(), ids=ROUTES)
def test_a_good_request_of_each_route(
    fleet: InProcess, lines: Lines, path: str, sent: bytes, prompt: int | None, output: int | None
) -> None:
    line, _ = asked(fleet, lines, path, sent)
    assert (line["status"], line["outcome"]) == (200, "done")
    assert line["instance"] == ("llm" if output else "tei")
    assert line["model"] == (LLM if output else EMBEDDER)
    assert line["request_bytes"] == len(sent)
    assert line["prompt_tokens"] > 0
    if output:
        assert line["completion_tokens"] == output
    assert line["first_byte_ms"] > 0


def test_merged_embeddings_have_their_own_sizes_and_tokens(fleet: InProcess, lines: Lines) -> None:
    callers = [Caller(fleet.port) for _ in range(6)]
    sent = [
        post("/v1/embeddings", body(model=EMBEDDER, input=[f"{SECRET} {n}"] * (n + 1)), JSON, f"x-request-id: c{n}")
        for n in range(6)
    ]  # fmt: skip
    for caller, data in zip(callers, sent, strict=True):
        caller.send(data)
    replies = {f"c{n}": caller.reply() for n, caller in enumerate(callers)}
    for _ in callers:
        line = as_logged(lines.one())
        reply = replies.pop(line["request_id"])
        usage: Any = reply.json["usage"]
        assert (line["status"], line["response_bytes"]) == (reply.status, len(reply.body))
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert 0 < line["first_byte_ms"] <= line["total_ms"]
    for caller in callers:
        caller.sock.close()


def test_application_answers_have_what_was_sent(fleet: InProcess, lines: Lines) -> None:
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("HEAD", "/health/live"),
        ("GET", "/no"),
    ):
        with Caller(fleet.port) as caller:
            began = time.monotonic()
            caller.send(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            reply = caller.reply() if method == "GET" else caller.head()
            agrees(lines, reply, time.monotonic() - began, path)


def test_a_prefill_and_a_wait_between_count_as_one_request(lines: Lines) -> None:
    prefilled = ok(body(kv_transfer_params={"do_remote_prefill": True, "remote_engine_id": "p"}))

    def first_waits(wire: Wire) -> None:
        assert wire.engine.go.wait(20)
        ok()(wire)

    with RogueEngine(prefilled, after(0.3, prefilled)) as p, RogueEngine(first_waits, ok(LONG)) as d:
        engines = [
            InstanceSettings(url=p.url, name="p", kind="prefilling"),
            InstanceSettings(url=d.url, name="d", kind="decoding", max_concurrent_requests=1),
        ]
        with gateway(*engines, logging=ON) as g, Caller(g.port) as one, Caller(g.port) as two:
            one.chat()
            d.arrived.get(timeout=10)
            two.chat("x-request-id: two")
            p.arrived.get(timeout=10)
            p.arrived.get(timeout=10)
            g.until(lambda r: r.gateway.scheduler.queued == 1)  # the rest of the second request
            d.go.set()
            assert [one.reply().status, two.reply().status] == [200, 200]
            found = {line["request_id"]: line for line in (lines.one(), lines.one())}["two"]
            assert found["total_ms"] >= found["first_byte_ms"] >= 300
            assert found["response_bytes"] == len(LONG)


def test_requests_about_a_stored_response(fleet: InProcess, lines: Lines) -> None:
    _, made = asked(fleet, lines, "/v1/responses", body(model=LLM, input=SECRET, max_output_tokens=4))
    path = f"/v1/responses/{json.loads(made.body)['id']}"
    for method, target, status in (
        ("GET", path, 200),
        ("GET", f"{path}/input_items", 404),  # vLLM has neither this
        ("DELETE", path, 405),  # nor this
        ("GET", "/v1/responses/resp_unknown", 404),
    ):
        with Caller(fleet.port) as caller:
            began = time.monotonic()
            reply = caller.send(f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()).reply()
            route = re.sub("resp_[^/]+", "{response_id}", target)  # ids are not part of it
            line = agrees(lines, reply, time.monotonic() - began, route)
            assert (line["method"], reply.status) == (method, status)


LONG = b"x" * 70
RERANK = body(model="m", query="q", documents=["d 1", "d 2", "d 3", "d 4"])
RERANKS: dict[str, tuple[list[Answer], int]] = {
    "two calls": ([after(0.1, ranked)], 200),
    "the first call hangs": ([hang], 504),
    "the second call hangs": ([after(0.3, ranked), hang], 504),
    "the second call fails": ([ranked, raw(b"", then="close")], 502),
    "the second call is garbage": ([ranked, ok(LONG)], 502),
    "the second call is refused": ([ranked, refusal("no")], 422),
    "the second call has another status": ([ranked, ok(LONG, status="302 Found")], 502),
    "the second call is too long": ([ranked, ok(b"x" * (1 << 20 | 1))], 502),
}


@pytest.mark.parametrize(("answers", "status"), RERANKS.values(), ids=RERANKS)
def test_a_rerank_of_several_calls_is_one_request(lines: Lines, answers: list[Answer], status: int) -> None:
    with (
        FakeTEI(*answers, batch=2) as engine,
        gateway(InstanceSettings(url=engine.url, name="e0"), logging=ON, timeouts=TIMEOUTS) as g,
    ):
        g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
        line, reply = asked(g, lines, "/v1/rerank", RERANK)
        assert (reply.status, line["instance"], line["model"]) == (status, "e0", "m")
        assert line["outcome"] == ("done" if status == 200 else "failed")
        if status == 200:
            assert line["total_ms"] >= 200  # both calls
            assert line["prompt_tokens"] == 4
        if hang in answers:
            assert line["total_ms"] >= 300 * len(answers)


def partial(told: int, sent: bytes, then: Answer) -> Answer:
    def answer(wire: Wire) -> None:
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % told)
        wire.send(sent)
        then(wire)

    return answer


def close(wire: Wire) -> None:
    wire.close()


def slowly(wire: Wire) -> None:
    for part in (sse(), *[chunk(b"data: {}\n\n")] * 9, b"0\r\n\r\n"):
        wire.send(part)


def events(wire: Wire) -> None:
    wire.send(sse(*['{"choices":[{"delta":{"content":"x"}}]}'] * 20))
    wire.close()


FAILURES: dict[str, tuple[list[Answer], int]] = {
    "silence after a head": ([partial(70, b"", hang)], 504),
    "closed after a head": ([partial(70, b"", close)], 502),
    "silence within a body": ([partial(70, b"abc", hang)], 200),
    "closed within a body": ([partial(70, b"abcdef", close)], 200),
    "stream that breaks off": ([events], 200),
    "stream of one event at a time": ([slowly], 200),
    "long answer": ([ok(b"x" * 300_000)], 200),
    "no content": ([raw(b"HTTP/1.1 204 No Content\r\n\r\n")], 204),
    "engine's refusal": ([ok(LONG, status="400 Bad Request")], 400),
    "engine's long refusal": ([ok(LONG * 2000, status="400 Bad Request")], 400),
    "refused twice": ([ok(LONG, status="503 Busy")], 503),
}  # fmt: skip


@pytest.mark.parametrize(("answers", "status"), FAILURES.values(), ids=FAILURES)
def test_bytes_are_those_that_were_written(lines: Lines, answers: list[Answer], status: int) -> None:
    with RogueEngine(*answers) as engine, gateway(engine, logging=ON, timeouts=TIMEOUTS) as g:
        _, reply = asked(g, lines, "/v1/chat/completions", chat())
        assert reply.status == status


EMBEDDINGS: dict[str, tuple[Answer, int]] = {
    "no vectors": (ok(LONG, status="500 No"), 500),
    "refused": (ok(body(error="no", error_type="Validation"), status="422 Unprocessable"), 422),
    "hangs": (hang, 504),
    "silence after a head": (partial(70, b"", hang), 504),
    "closed after a head": (partial(70, b"", close), 502),
}


@pytest.mark.parametrize("texts", ["one", [f"text {n}" for n in range(40)]])
@pytest.mark.parametrize(("answer", "status"), EMBEDDINGS.values(), ids=EMBEDDINGS)
def test_embeddings_that_fail(lines: Lines, answer: Answer, status: int, texts: object) -> None:
    with RogueEngine(answer) as engine, gateway(engine, logging=ON, timeouts=TIMEOUTS) as g:
        line, reply = asked(g, lines, "/v1/embeddings", body(model="m", input=texts))
        assert reply.status == status
        assert line["outcome"] == "failed"
        assert (line["first_byte_ms"] is None) == (status in (502, 504))


def vectors(*values: float) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": [value]} for at, value in enumerate(values)]
    return body(object="list", model="m", data=data, usage={"prompt_tokens": 9, "total_tokens": 9})


def test_the_first_byte_of_texts_that_share_calls(lines: Lines) -> None:
    """Two callers of one text, of whom the second came after the first byte; then a text that is remembered."""

    def slowly(wire: Wire) -> None:
        data = vectors(1.0)
        wire.send(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n")
        wire.send(data[:9])
        assert wire.engine.go.wait(20)
        wire.send(data[9:])

    scheduling = SchedulingSettings(embedding_cache_bytes=1 << 20)
    sent = post("/v1/embeddings", body(model="m", input=SECRET), JSON)
    with (
        RogueEngine(slowly) as engine,
        gateway(engine, logging=ON, scheduling=scheduling) as g,
        Caller(g.port) as first,
        Caller(g.port) as second,
    ):
        first.send(sent)
        g.until(lambda r: any((e.ttft + e.ttfb).total for e in r.gateway.engines.values()))
        second.send(sent)
        g.until(lambda r: r.gateway.embeddings.batcher.counters.shared_texts)
        engine.go.set()
        assert (first.reply().status, second.reply().status) == (200, 200)
        late, early = sorted(
            (as_logged(lines.one()) for _ in range(2)), key=lambda line: line["first_byte_ms"]
        )
        assert 0 < early["first_byte_ms"] < early["total_ms"]
        assert late["first_byte_ms"] == 0, "it was there already"
        line, _ = asked(g, lines, "/v1/embeddings", body(model="m", input=SECRET))
        assert (line["first_byte_ms"], len(engine.requests)) == (None, 1)


def test_the_first_byte_after_a_call_was_made_again(lines: Lines) -> None:
    again = after(0.05, ok(vectors(1.0, 2.0)))
    with RogueEngine(ok(LONG, status="503 Busy"), again) as a, RogueEngine(again) as b:
        texts = body(model="m", input=["a", "b"])
        with gateway(a, b, logging=ON) as g:
            for _ in range(2):
                line, reply = asked(g, lines, "/v1/embeddings", texts)
                assert reply.status == 200
                assert 50 <= line["first_byte_ms"] <= line["total_ms"]


def left_before(head: bytes) -> Callable[[InProcess, RogueEngine], None]:
    def leave(g: InProcess, engine: RogueEngine) -> None:
        with Caller(g.port) as caller:
            caller.chat()
            wire = engine.arrived.get(timeout=10)
            wire.send(head)
            # Seen by the gateway: what the engine answered is known there, and not written yet.
            if head:
                connections: Any = g.running.server.server_state.connections
                g.until(lambda _: any(c.running and c.running.status for c in connections))

    return leave


LEFT = {
    "nothing": b"",
    "a head": b"HTTP/1.1 200 OK\r\ncontent-length: 70\r\n\r\n",
    "the head of an error": b"HTTP/1.1 400 No\r\ncontent-length: 70\r\n\r\n",
    "the head of a fault": b"HTTP/1.1 500 No\r\ncontent-length: 70\r\n\r\n",
    "the head of a stream": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("head", LEFT.values(), ids=LEFT)
def test_a_caller_that_leaves_before_a_byte_has_no_status(lines: Lines, head: bytes) -> None:
    with RogueEngine(hang) as engine, gateway(engine, logging=ON) as g:
        left_before(head)(g, engine)
        line = as_logged(lines.one())
        assert (line["status"], line["outcome"], line["instance"]) == (None, "cancelled", "e0")
        assert line["response_bytes"] is None


def test_a_caller_that_leaves_within_an_answer_has_the_bytes_written(lines: Lines) -> None:
    with RogueEngine(partial(70, b"abc", hang)) as engine, gateway(engine, logging=ON) as g:
        with Caller(g.port) as caller:
            assert caller.chat().head().status == 200
            caller.take(3)
        line = as_logged(lines.one())
        assert (line["status"], line["outcome"], line["response_bytes"]) == (200, "cancelled", 3)


REFUSED = {
    "no HTTP": b"\x16\x03\x01\x00\r\n\r\n",
    "large head": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 70000,
    "slow head": b"GET /health HTTP/1.1\r\nhost:",
    "slow body": post("/v1/chat/completions", chat(), "x-api-key: k")[:-3],
    "large body": post("/v1/chat/completions", b"x" * 5000, "x-api-key: k"),
    "no key": post("/v1/chat/completions", chat()),
    "unknown model": post("/v1/chat/completions", chat("other"), "x-api-key: k"),
    "unknown route": b"GET /no HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\n\r\n",
}


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
def test_a_refusal_has_its_bytes(lines: Lines, sent: bytes) -> None:
    keys = (ApiKeySettings(key=Secret("k")),)
    with (
        RogueEngine(ok()) as engine,
        gateway(engine, logging=ON, api_keys=keys, timeouts=TIMEOUTS, limits=LimitSettings(body_bytes=4096)) as g,
        Caller(g.port) as caller,
    ):  # fmt: skip
        reply = caller.send(sent).reply()
        line = as_logged(lines.one())
        assert (line["status"], line["response_bytes"]) == (reply.status, len(reply.body))
        assert line["outcome"] == "refused"
