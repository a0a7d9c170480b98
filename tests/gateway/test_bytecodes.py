"""The bytecodes of our own functions that one warm request costs, so that no feature grows into the hot path unnoticed.

The counts are exact: they depend neither on the machine nor on its load. Each bound is two percent above the count when
it was set, so that a change which adds a few look-ups to a request has to raise it, and says so.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import sage_inference
from sage_inference.config.settings import HealthSettings, InstanceSettings
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, chunk, raw, sse
from tests.support.wire import CHAT, Caller, chat, post

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="another Python compiles to other bytecodes"
)
PACKAGE = str(Path(sage_inference.__file__).parent)
ROUNDS = 7  # of which the cheapest counts: a tick of a clock may come into any of them
WARM = 300  # requests: of the first 256 answers all are read for estimates, later only some
WARM_STREAMS = 80  # the first 64 show the time of a prompt, later only some

Act = Callable[[], object]


def bytecodes_of(door: InProcess, act: Act) -> Counter[str]:
    """The bytecodes on the gateway's thread from an act to the end of its records, by file and function."""
    counted: Counter[str] = Counter()

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        name = f"{code.co_filename[len(PACKAGE) + 1 :]} {code.co_qualname}"

        def count(_: FrameType, event: str, __: Any) -> Any:
            if event == "opcode":
                counted[name] += 1
            return count

        return count

    door.ask(lambda _: sys.settrace(enter))
    try:
        act()
        door.ask(lambda _: None)  # the records of the request are made by then
    finally:
        door.ask(lambda _: sys.settrace(None))
    return counted


def at_most(most: int, rounds: list[Counter[str]]) -> None:
    fewest = min(rounds, key=Counter.total)
    assert most * 0.9 < fewest.total() <= most, (fewest.total(), fewest.most_common())


def answer(document: dict[str, Any]) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4, "prompt_tokens_details": None}
COMPLETION = answer({"object": "chat.completion", "model": "m", "choices": [CHOICE], "usage": USAGE})
VECTOR = answer(
    {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25] * 16}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
)
EMBED = json.dumps({"model": "m", "input": "a text"}).encode()


@contextmanager
def before(engine_answer: bytes, kind: Any, engines: int = 1) -> Iterator[tuple[InProcess, Caller]]:
    """A gateway before so many engines, and a caller."""
    with ExitStack() as stack:
        made = [stack.enter_context(RogueEngine(raw(engine_answer))) for _ in range(engines)]
        instances = [InstanceSettings(url=each.url, name=f"e{n}", kind=kind) for n, each in enumerate(made)]
        door = stack.enter_context(gateway(*instances, health=HealthSettings(interval_s=60)))
        yield door, stack.enter_context(Caller(door.port))


@pytest.mark.parametrize(
    ("engine_answer", "kind", "engines", "message", "most"),
    [
        (COMPLETION, "llm", 1, post(CHAT, chat()), 2740),
        (COMPLETION, "llm", 3, post(CHAT, chat()), 3100),
        (VECTOR, "embedding", 1, post("/v1/embeddings", EMBED), 4240),
    ],
    ids=["a chat", "a chat among three engines", "one text to embed"],
)
def test_a_warm_request_costs_few_bytecodes(
    engine_answer: bytes, kind: Any, engines: int, message: bytes, most: int
) -> None:
    with before(engine_answer, kind, engines) as (door, caller):

        def ask() -> None:
            assert caller.send(message).reply().status == 200

        for _ in range(WARM):
            ask()
        at_most(most, [bytecodes_of(door, ask) for _ in range(ROUNDS)])


def event(delta: str, finish_reason: str = "null") -> str:
    return (
        '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        f'"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}}}]}}'
    )


def framed(document: str) -> bytes:
    return chunk(f"data: {document}\n\n".encode())


TOKEN = framed(event('{"content":"hi"}'))
LAST = framed(event('{"content":""}', '"stop"'))
DONE = framed("[DONE]") + b"0\r\n\r\n"


class Stream:
    """Streams of one caller, one after the other, of which the test sends the chunks."""

    def __init__(self, engine: RogueEngine, caller: Caller) -> None:
        self.engine = engine
        self.caller = caller

    def begin(self) -> None:
        self.caller.chat(stream=True).head()
        self.caller.chunk()
        self.wire = self.engine.arrived.get(timeout=10)

    def go_on(self) -> None:
        self.wire.send(TOKEN)
        self.caller.chunk()

    def end(self) -> None:
        self.wire.send(LAST)
        self.caller.chunk()
        self.wire.send(DONE)
        assert self.caller.chunk()
        assert not self.caller.chunk()


def test_a_warm_stream_costs_few_bytecodes() -> None:
    with (
        RogueEngine(raw(sse(event('{"role":"assistant","content":""}')))) as engine,
        gateway(
            InstanceSettings(url=engine.url, name="only", kind="llm"), health=HealthSettings(interval_s=60)
        ) as door,
        Caller(door.port) as caller,
    ):
        stream = Stream(engine, caller)
        for _ in range(WARM_STREAMS):
            stream.begin()
            stream.go_on()
            stream.end()
        starts, chunks, ends = [], [], []
        for _ in range(ROUNDS):
            starts.append(bytecodes_of(door, stream.begin))
            stream.go_on()  # the first chunks show whether the stream is fast, and what its deltas look like
            chunks.append(bytecodes_of(door, stream.go_on))
            ends.append(bytecodes_of(door, stream.end))
        at_most(2870, starts)
        at_most(85, chunks)
        at_most(1650, ends)
