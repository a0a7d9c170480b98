"""What the end of an answer tells is read however its bytes fall: what it took, and whether the engine gave it up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.types import EngineState
from tests.support.decisions import attempts
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, chunk, ok
from tests.support.wire import CHAT, Caller, Reply

MESSAGES, RESPONSES, COMPLETIONS = "/v1/messages", "/v1/responses", "/v1/completions"
EVENTS = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
_numbers = itertools.count()


def event(document: Any, name: str = "") -> bytes:
    lead = f"event: {name}\n" if name else ""
    return f"{lead}data: {json.dumps(document, separators=(',', ':'))}\n\n".encode()


def token(text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more})


def lockstep(pieces: Sequence[bytes], kind: str = EVENTS, length: bool = False) -> Answer:
    """Each piece in a packet of its own, sent when the caller has the one before; then the end in one more."""

    def answer(wire: Wire) -> None:
        framing = f"content-length: {sum(map(len, pieces))}" if length else "transfer-encoding: chunked"
        wire.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n")
        for piece in pieces:
            wire.send(piece if length else chunk(piece))
            assert wire.engine.go.wait(20)
            wire.engine.go.clear()
        wire.send(b"" if length else b"0\r\n\r\n")

    return answer


def request(path: str, request_id: str, version: str) -> bytes:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}
    body = json.dumps({**document, "max_tokens": 9, "stream": True}).encode()
    lines = [f"POST {path} HTTP/{version}", "host: localhost", f"x-request-id: {request_id}"]
    return "\r\n".join([*lines, f"content-length: {len(body)}"]).encode() + b"\r\n\r\n" + body


class Scene:
    def __init__(self, engine: RogueEngine, g: InProcess) -> None:
        self.engine = engine
        self.g = g

    def ask(
        self, answer: Answer, path: str = CHAT, pieces: Sequence[bytes] = (), version: str = "1.1"
    ) -> tuple[Reply, dict[str, Any]]:
        """The answer, and the attempt as it was booked; ``pieces`` are taken one by one."""
        self.engine.answers = [answer]
        name = f"ending-{next(_numbers)}"
        with Caller(self.g.port) as caller:
            caller.send(request(path, name, version))
            if not pieces:
                reply = caller.reply()
            else:
                reply = caller.head()
                for piece in pieces:
                    taken = b""
                    while len(taken) < len(piece):
                        part = caller.chunk() if "transfer-encoding" in reply.headers else caller.take(1)
                        taken += part
                    reply.body += taken
                    self.engine.go.set()
                assert caller.chunk() == b"" if "transfer-encoding" in reply.headers else caller.closed()
        self.g.until(lambda r: r.gateway.in_flight == 0)
        [attempt] = attempts(self.g, name)
        return reply, attempt


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with RogueEngine(ok(), routes=[CHAT, COMPLETIONS, MESSAGES, RESPONSES]) as engine, gateway(engine) as g:
        g.ask(lambda r: setattr(r.gateway.scheduler.ledger, "reads_all_usage", True))
        yield Scene(engine, g)


def counted(attempt: dict[str, Any]) -> tuple[int, int, int | None, bool]:
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "prompt_tokens_estimated")
    return tuple(attempt[name] for name in names)


USAGE = {"prompt_tokens": 70, "total_tokens": 73, "completion_tokens": 3}
USED = event({"choices": [], "usage": USAGE})
CACHED = event({"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 64}}})
SPACED = b'data: { "choices": [], "usage" : { "completion_tokens" : 3, "prompt_tokens" : 70 } }  \n\n'
NULL = event({"choices": [], "usage": None})
CRLF = USED.replace(b"\n", b"\r\n")
PING = b": ping - 2026-11-29 12:00:00\r\n\r\n"
WITH_TIMINGS = event({"choices": [], "usage": USAGE, "timings": {"prompt_n": 1, "predicted_n": 2}})
TEXT = token("a"), token("b"), token("c", "stop")
ALWAYS = [
    token(text, usage={**USAGE, "completion_tokens": count}) for count, text in enumerate("abc", 1)
]  # continuous_usage_stats


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


FALLS: dict[str, tuple[Sequence[bytes], int | None]] = {
    "three pieces": ([*TEXT, USED, DONE], None),
    "one piece": ([b"".join(TEXT) + USED + DONE], None),
    "together at the end": ([*TEXT, USED + DONE], None),
    "with the last token": ([*TEXT[:2], TEXT[2] + USED, DONE], None),
    "in two": ([*TEXT, USED[:40], USED[40:], DONE], None),
    "in the number": ([*TEXT, USED[: USED.index(b"70") + 1], USED[USED.index(b"70") + 1 :], DONE], None),
    "byte by byte": ([*TEXT, *bytewise(USED + DONE)], None),
    "all of it byte by byte": (bytewise(b"".join(TEXT) + CACHED + DONE), 64),
    "with cached tokens": ([*TEXT, CACHED, DONE], 64),
    "CRLF": ([*TEXT, CRLF, DONE.replace(b"\n", b"\r\n")], None),
    "spaces": ([*TEXT, SPACED, DONE], None),
    "comments behind it": ([*TEXT, USED, PING, PING, b":\n\n", DONE], None),
    "null behind it": ([*TEXT, USED, NULL, DONE], None),
    "in each event": ([*ALWAYS, DONE], None),
    "without DONE": ([*TEXT, USED], None),
    "figures of another kind behind it": ([*TEXT, WITH_TIMINGS, DONE], None),
    "behind a long answer": ([token("x" * 300)] * 40 + [USED, DONE], None),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("pieces", "cached"), FALLS.values(), ids=FALLS)
def test_a_streams_usage_is_read_however_its_pieces_fall(
    scene: Scene, pieces: Sequence[bytes], cached: int | None, version: str
) -> None:
    if version == "1.0" and len(pieces) > 100:
        pytest.skip("the pieces differ in nothing that matters")
    reply, attempt = scene.ask(lockstep(pieces), CHAT, pieces, version)
    assert reply.body == b"".join(pieces)
    assert counted(attempt) == (70, 3, cached, False)
    assert attempt["outcome"] == "done"


MESSAGE = {"id": "msg_1", "type": "message", "content": [], "usage": {"input_tokens": 6, "output_tokens": 1}}
CACHE = {"input_tokens": 6, "cache_read_input_tokens": 64, "cache_creation_input_tokens": 0}
STARTS = event({"type": "message_start", "message": MESSAGE}, "message_start")
STARTS_CACHED = event({"type": "message_start", "message": {**MESSAGE, "usage": CACHE}}, "message_start")
STOPS = event({"type": "message_stop"}, "message_stop")


def message_delta(**usage: int) -> bytes:
    return event(
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}, "message_delta"
    )


RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "error": None,
    "output": [],
}
RESPONSE_USAGE = {"input_tokens": 70, "input_tokens_details": {"cached_tokens": 64}, "output_tokens": 3}
COMPLETED = event(
    {"type": "response.completed", "response": {**RESPONSE, "usage": RESPONSE_USAGE, "user": None}},
    "response.completed",
)
OTHERS: dict[str, tuple[str, Sequence[bytes], tuple[int, int, int | None]]] = {
    "messages": (MESSAGES, [STARTS, message_delta(output_tokens=3), STOPS], (6, 3, None)),
    "messages, all at the end": (
        MESSAGES,
        [STARTS, message_delta(input_tokens=70, output_tokens=3), STOPS, DONE],
        (70, 3, None),
    ),
    "messages, cached": (MESSAGES, [STARTS_CACHED, message_delta(output_tokens=3), STOPS], (70, 3, 64)),
    "responses": (RESPONSES, [COMPLETED], (70, 3, 64)),
    "responses, in two": (RESPONSES, [COMPLETED[:-90], COMPLETED[-90:]], (70, 3, 64)),
}


@pytest.mark.parametrize(("path", "pieces", "told"), OTHERS.values(), ids=OTHERS)
def test_the_usage_of_other_protocols_is_read(
    scene: Scene, path: str, pieces: Sequence[bytes], told: tuple[int, int, int | None]
) -> None:
    _, attempt = scene.ask(lockstep(pieces), path, pieces)
    assert counted(attempt) == (*told, False)


LOGPROBS = {"logprobs": {"content": [{"token": "usage", "logprob": -0.5}] * 12000}}
PLAIN = {"id": "c", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
PLAINS: dict[str, dict[str, Any]] = {
    "at the end": {**PLAIN, **LOGPROBS, "usage": USAGE},
    "at the start": {"usage": USAGE, **PLAIN, **LOGPROBS},
    "in the midst": {**PLAIN, **LOGPROBS, "usage": USAGE, "prompt": LOGPROBS},
    "short": {"usage": USAGE, **PLAIN},
}


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("document", PLAINS.values(), ids=PLAINS)
def test_a_plain_answers_usage_is_read_wherever_it_stands(
    scene: Scene, document: dict[str, Any], length: bool
) -> None:
    body = json.dumps(document).encode()
    at = body.index(b'"usage": {')
    # Cut within its name, too.
    for cuts in ([at + 4], [at + 20], list(range(50_000, len(body), 50_000))):
        pieces = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
        reply, attempt = scene.ask(together(pieces, length))
        assert reply.body == body
        assert counted(attempt) == (70, 3, None, False)
        assert attempt["outcome"] == "done"


def together(pieces: Sequence[bytes], length: bool = True, kind: str = "application/json") -> Answer:
    def answer(wire: Wire) -> None:
        framing = f"content-length: {sum(map(len, pieces))}" if length else "transfer-encoding: chunked"
        wire.send(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{framing}\r\n\r\n")
        for piece in pieces:
            wire.send(piece if length else chunk(piece))
        wire.send(b"" if length else b"0\r\n\r\n")

    return answer


def test_a_stream_that_its_caller_leaves_is_charged_what_was_told_so_far(scene: Scene) -> None:
    scene.engine.answers = [lockstep(ALWAYS)]
    with Caller(scene.g.port) as caller:
        caller.send(request(CHAT, "left-early", "1.1"))
        caller.head()
        caller.chunk()
        scene.engine.go.set()
        caller.chunk()
    scene.g.until(lambda r: r.gateway.in_flight == 0)
    [attempt] = attempts(scene.g, "left-early")
    assert (attempt["outcome"], attempt["completion_tokens"]) == ("cancelled", 2)


# Given up by the engine

CORE_DIED = event({"error": {"message": "EngineCore encountered an issue.", "code": 500}})
ABORTED = token("", "abort")
LIES = r'"finish_reason":"abort"} {"error":{"message":"x"}}'
GIVEN_UP: dict[str, tuple[str, Sequence[bytes], str]] = {
    "aborted": (CHAT, [*TEXT[:2], ABORTED, DONE], "aborted"),
    "aborted, with usage": (CHAT, [*TEXT[:2], ABORTED, USED, DONE], "aborted"),
    "aborted, in one piece": (CHAT, [TEXT[0] + ABORTED + USED + DONE], "aborted"),
    "aborted, byte by byte": (CHAT, [TEXT[0], *bytewise(ABORTED + DONE)], "aborted"),
    "aborted, one of two": (
        CHAT,
        [ABORTED, event({"choices": [{"index": 1, "finish_reason": "stop"}]}), DONE],
        "aborted",
    ),
    "aborted text": (
        COMPLETIONS,
        [event({"choices": [{"text": "a", "finish_reason": "abort"}]}), DONE],
        "aborted",
    ),
    "core died": (CHAT, [*TEXT[:2], CORE_DIED, DONE], "failed"),
    "core died, CRLF": (CHAT, [*TEXT[:2], CORE_DIED.replace(b"\n", b"\r\n"), DONE], "failed"),
    "core died at once": (CHAT, [CORE_DIED, DONE], "failed"),
    "an error without [DONE]": (CHAT, [*TEXT[:2], CORE_DIED], "failed"),
    "an error as text": (CHAT, [*TEXT[:2], event({"error": "out of memory"}), DONE], "failed"),
    "an older vLLM's error": (
        CHAT,
        [event({"object": "error", "message": "no", "code": 500}), DONE],
        "failed",
    ),
    "a message's error": (
        MESSAGES,
        [STARTS, event({"type": "error", "error": {"type": "api_error"}}, "error")],
        "failed",
    ),
    "a response that failed": (
        RESPONSES,
        [event({"type": "response.failed", "response": {**RESPONSE, "status": "failed"}}, "response.failed")],
        "failed",
    ),
    "a response that was cancelled": (
        RESPONSES,
        [event({"type": "response.completed", "response": {**RESPONSE, "status": "cancelled"}})],
        "aborted",
    ),
    "a text that quotes it": (CHAT, [token(LIES), token(LIES, "stop"), USED, DONE], "done"),
    "a tool's arguments that quote it": (
        CHAT,
        [event({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": LIES}}]}}]}), TEXT[2], DONE],
        "done",
    ),
    "a token of that name": (
        CHAT,
        [
            event({"choices": [{"logprobs": {"content": [{"token": "abort"}, {"token": "error"}]}}]}),
            TEXT[2],
            DONE,
        ],
        "done",
    ),
    "an error that is null": (RESPONSES, [COMPLETED], "done"),
    "cut by its length": (CHAT, [*TEXT[:2], token("", "length"), DONE], "done"),
}


@pytest.mark.parametrize(("path", "pieces", "outcome"), GIVEN_UP.values(), ids=GIVEN_UP)
def test_a_stream_that_its_engine_gave_up_is_not_booked_as_done(
    scene: Scene, path: str, pieces: Sequence[bytes], outcome: str
) -> None:
    before = scene.g.ask(lambda r: r.gateway.stats.engine_failures)
    reply, attempt = scene.ask(lockstep(pieces), path, pieces)
    assert reply.body == b"".join(pieces)  # byte for byte
    assert (attempt["outcome"], attempt["status"]) == (outcome, 200)
    assert scene.g.ask(lambda r: r.gateway.stats.engine_failures) == before + (outcome != "done")
    scene.ask(ok())  # its health is good again


def plain(finish: str, text: str = "half", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}


GIVEN_UP_PLAIN: dict[str, tuple[str, dict[str, Any], str]] = {
    "aborted": (CHAT, plain("abort"), "aborted"),
    "aborted, long": (CHAT, plain("abort", "x" * 200_000), "aborted"),
    "aborted text": (COMPLETIONS, {"choices": [{"text": "a", "finish_reason": "abort"}]}, "aborted"),
    "a response": (RESPONSES, {**RESPONSE, "status": "failed", "error": {"code": "server_error"}}, "failed"),
    "a text that quotes it": (CHAT, plain("stop", LIES), "done"),
    "a token of that name": (CHAT, plain("stop", logprobs={"content": [{"token": "abort"}]}), "done"),
    "a long text that quotes it": (CHAT, plain("stop", LIES * 3000), "done"),
    "done": (RESPONSES, RESPONSE, "done"),
}


@pytest.mark.parametrize(("path", "document", "outcome"), GIVEN_UP_PLAIN.values(), ids=GIVEN_UP_PLAIN)
def test_a_plain_answer_that_its_engine_gave_up_is_not_booked_as_done(
    scene: Scene, path: str, document: dict[str, Any], outcome: str
) -> None:
    body = json.dumps(document).encode()
    reply, attempt = scene.ask(ok(body), path)
    assert reply.body == body
    assert attempt["outcome"] == outcome
    scene.ask(ok())


def unframed(*pieces: bytes) -> Answer:
    """As a server of HTTP/1.0, or a proxy before one: the connection's end is the answer's."""

    def answer(wire: Wire) -> None:
        wire.send(f"HTTP/1.1 200 OK\r\ncontent-type: {EVENTS}\r\nconnection: close\r\n\r\n")
        for piece in pieces:
            wire.send(piece)
        wire.close()

    return answer


CREATED = event({"type": "response.created", "response": {**RESPONSE, "status": "in_progress"}})
TEXT_DELTA = event({"type": "content_block_delta", "index": 0, "delta": {"text": "a"}}, "content_block_delta")
BROKE_OFF: dict[str, tuple[str, Sequence[bytes]]] = {
    "chat": (CHAT, TEXT[:2]),
    "chat, in an event": (CHAT, [TEXT[0], TEXT[1][:60]]),
    "completions": (COMPLETIONS, [event({"choices": [{"text": "a", "finish_reason": None}]})]),
    "messages": (MESSAGES, [STARTS, TEXT_DELTA]),
    "responses": (RESPONSES, [CREATED]),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("path", "pieces"), BROKE_OFF.values(), ids=BROKE_OFF)
def test_a_stream_that_ends_with_its_connection_and_without_its_last_event_is_cut(
    scene: Scene, path: str, pieces: Sequence[bytes], version: str
) -> None:
    reply, attempt = scene.ask(unframed(*pieces), path, version=version)
    assert reply.body.startswith(b"".join(pieces))
    assert b"closed the connection before its answer ended" in reply.body
    assert reply.complete is (version == "1.0")
    assert attempt["outcome"] == "cut"


WHOLE: dict[str, tuple[str, Sequence[bytes]]] = {
    "chat": (CHAT, [*TEXT, DONE]),
    "chat without [DONE]": (CHAT, TEXT),
    "messages": (MESSAGES, [STARTS, TEXT_DELTA, message_delta(output_tokens=3), STOPS]),
    "responses": (RESPONSES, [CREATED, COMPLETED]),
    "another protocol": (CHAT, [b"data: one\n\n"]),
    "an error": (CHAT, [CORE_DIED]),
    "an error behind tokens": (CHAT, [*TEXT[:2], CORE_DIED]),
}


@pytest.mark.parametrize(("path", "pieces"), WHOLE.values(), ids=WHOLE)
def test_a_whole_stream_that_ends_with_its_connection_is_passed_on(
    scene: Scene, path: str, pieces: Sequence[bytes]
) -> None:
    reply, _ = scene.ask(unframed(*pieces), path)
    assert (reply.complete, reply.body) == (True, b"".join(pieces))
    scene.ask(ok())


def test_a_stream_in_order_without_its_last_event_is_passed_on_and_booked_as_cut(scene: Scene) -> None:
    reply, attempt = scene.ask(lockstep(TEXT[:2]), CHAT, TEXT[:2])
    assert (reply.complete, reply.body) == (True, b"".join(TEXT[:2]))
    assert attempt["outcome"] == "cut"


def test_what_was_made_of_an_aborted_answer_is_charged(scene: Scene) -> None:
    _, attempt = scene.ask(ok(json.dumps(plain("abort"))))
    assert counted(attempt) == (70, 3, None, False)


@pytest.mark.parametrize(("engine", "remedy"), [("openai", False), ("vllm", True)])
def test_an_engine_that_gives_up_answer_after_answer_is_ejected(engine: Any, remedy: bool) -> None:
    with (
        RogueEngine(ok(json.dumps(plain("abort")))) as bad,
        gateway(InstanceSettings(url=bad.url, name="e0", engine=engine, kind="llm", model="m")) as g,
        Caller(g.port) as caller,
    ):
        for _ in range(5):
            assert caller.chat().reply().status == 200
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.EJECTED)
        error = g.ask(lambda r: r.gateway.engines["e0"].last_error) or ""
        assert error.partition(";")[0] == "aborted an answer"
        assert ("--shutdown-timeout" in error) is remedy


def test_an_engine_that_gives_up_one_answer_is_probed_at_once() -> None:
    def last_words(wire: Wire) -> None:
        ok(json.dumps(plain("abort")))(wire)
        wire.engine.refuse()

    health = HealthSettings(interval_s=60)
    with RogueEngine(last_words) as engine, gateway(engine, health=health) as g, Caller(g.port) as caller:
        assert caller.chat().reply().status == 200
        g.until(lambda r: r.gateway.engines["e0"].instance.state is EngineState.EJECTED)


def test_an_error_event_that_blames_the_caller_does_not_count_against_the_engine() -> None:
    fault = event({"error": {"message": "too long", "type": "BadRequestError", "code": 400}})
    with RogueEngine(together([fault, DONE], False, EVENTS)) as engine, gateway(engine) as g:
        with Caller(g.port) as caller:
            for _ in range(6):
                caller.chat("x-request-id: own-fault", stream=True).reply()
        g.until(lambda r: r.gateway.in_flight == 0)
        assert {each["outcome"] for each in attempts(g, "own-fault")} == {"failed"}
        assert g.ask(lambda r: r.gateway.engines["e0"].instance.state) is EngineState.READY


def test_a_failed_answer_stands_in_the_metrics() -> None:
    with (
        RogueEngine(ok(json.dumps(plain("abort")))) as engine,
        gateway(engine) as g,
        Caller(g.port) as caller,
    ):
        caller.chat().reply()
        g.until(lambda r: r.gateway.in_flight == 0)
        page = caller.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").reply().body
        assert b"sage_requests_failed_by_engine_total 1\n" in page
