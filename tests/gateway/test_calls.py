"""The calls of our own functions that one warm request costs, so that no layer grows into the hot path unnoticed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import sage_inference
from sage_inference.config.secrets import Secret
from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.server import RunningGateway
from tests.support.inprocess import InProcess, gateway
from tests.support.managed import CHAT as ENGINE
from tests.support.managed import managed
from tests.support.rogue import RogueEngine, raw
from tests.support.wire import CHAT, Caller, chat, post

PACKAGE = str(Path(sage_inference.__file__).parent)
ROUNDS = 7  # of which the cheapest counts: a tick of a clock may come into any of them


EMBED = json.dumps({"model": "m", "input": "a text"}).encode()


def completion() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    return json.dumps(
        {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    ).encode()


def vector() -> bytes:
    item = {"object": "embedding", "index": 0, "embedding": [0.25] * 16}
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return json.dumps({"object": "list", "data": [item], "model": "m", "usage": usage}).encode()


def in_one_packet(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def calls_of(door: InProcess, caller: Caller, message: bytes) -> Counter[str]:
    """The calls on the gateway's thread from a request to the end of its records, by file and function."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            counted[f"{file[len(PACKAGE) + 1 :]} {frame.f_code.co_qualname}"] += 1

    door.ask(lambda _: sys.setprofile(count))
    try:
        assert caller.send(message).reply().status == 200
        door.ask(lambda _: None)  # the records of the request are made by then
    finally:
        door.ask(lambda _: sys.setprofile(None))
    return counted


def warm(caller: Caller, message: bytes) -> None:
    for _ in range(5):  # connections, heads and records of the engine's pace
        assert caller.send(message).reply().status == 200


@pytest.mark.parametrize(
    ("kind", "answer", "message", "most"),
    [
        ("llm", completion(), post(CHAT, chat()), 90),
        ("embedding", vector(), post("/v1/embeddings", EMBED), 120),
    ],
    ids=["a chat", "one text to embed"],
)
def test_a_warm_request_costs_few_calls(kind: Any, answer: bytes, message: bytes, most: int) -> None:
    with (
        RogueEngine(raw(in_one_packet(answer))) as engine,
        gateway(
            InstanceSettings(url=engine.url, name="only", kind=kind), health=HealthSettings(interval_s=60)
        ) as door,
        Caller(door.port) as caller,
    ):
        warm(caller, message)
        rounds = [calls_of(door, caller, message) for _ in range(ROUNDS)]
        fewest = min(rounds, key=Counter.total)
        assert 30 < fewest.total() <= most, fewest.most_common()


def test_a_chat_costs_the_same_calls_whether_the_gateway_started_its_engine_or_not(tmp_path: Path) -> None:
    """The same engine process, served by the gateway that started it, and by one that was given its URL and key."""
    message = post(CHAT, chat("org/chat", max_tokens=1), "content-type: application/json")

    def address(running: RunningGateway) -> InstanceSettings:
        process = running.managed.engines["chat"].running  # type: ignore[union-attr]
        assert process is not None
        assert process.api_key is not None
        return InstanceSettings(url=process.url, name="chat", api_key=Secret(process.api_key))

    ours = theirs = Counter(dict.fromkeys("any", 1000))
    with managed(tmp_path, ENGINE) as door:
        door.state("chat", "ready")
        with (
            gateway(door.ask(address)) as without,
            Caller(door.port) as caller,
            Caller(without.port) as other,
        ):
            warm(caller, message)
            warm(other, message)
            for _ in range(100):  # the engine's answer comes in one piece, or in two
                ours = min(ours, calls_of(door, caller, message), key=Counter.total)
                theirs = min(theirs, calls_of(without, other, message), key=Counter.total)
                if ours == theirs:
                    break
    assert ours == theirs, (ours - theirs, theirs - ours)
    assert 30 < ours.total() < 150
