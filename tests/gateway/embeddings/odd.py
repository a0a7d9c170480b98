"""An engine of embeddings whose answers are odd where a text asks for that, and callers of all kinds."""

from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sage_inference.config.settings import InstanceSettings
from sage_inference.server import RunningGateway
from sage_inference.wire import content_coding
from sage_inference.wire.content_coding import codings_in
from tests.support.codings import ENCODERS
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import RogueEngine, Wire
from tests.support.wire import Caller, Reply, post

BAD = "bad"
Write = Callable[[list[str], bool], bytes]  # an engine's body for texts, base64 wanted or not


def vector(text: str) -> list[float]:
    """Each text's own, exact as float32."""
    number = zlib.crc32(text.encode()) % 4096
    return [float(number), number / 4, -1.5]


def as_json(numbers: list[Any], base64_: bool) -> Any:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode() if base64_ else numbers


def listed(items: list[Any], **more: Any) -> bytes:
    data = [{"object": "embedding", "index": n, "embedding": item} for n, item in enumerate(items)]
    usage = {"prompt_tokens": len(items), "total_tokens": len(items)}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage, **more}).encode()


def with_bad(bad: Any, *, knows_base64: bool = False) -> Write:
    """Right vectors, but ``bad`` for the bad text."""

    def write(texts: list[str], wants_base64: bool) -> bytes:
        form = knows_base64 and wants_base64
        return listed([bad if text == BAD else as_json(vector(text), form) for text in texts])

    return write


class OddEngine(RogueEngine):
    """It says that it is a TEI. ``write`` makes bodies; answers wait while ``go`` is not set.

    ``calls`` lists the texts of each call; a refusal is the answer where ``refuses`` and the bad text is in it.
    """

    def __init__(self) -> None:
        super().__init__(self._answer)
        self._noting = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.calls: list[list[str]] = []
        self.requests.clear()
        self.write = with_bad(vector(BAD))
        self.refuses = False
        self.coding = ""
        self.go.set()

    def _answer(self, wire: Wire) -> None:
        asked = json.loads(wire.body)
        texts = asked.get("input", asked.get("inputs"))
        texts = [texts] if isinstance(texts, str) else texts
        with self._noting:
            self.calls.append(texts)
        self.go.wait(20)
        body = self.write(texts, asked.get("encoding_format") == "base64")
        if wire.head.startswith(b"POST /embed ") and BAD not in texts:
            body = json.dumps([item["embedding"] for item in json.loads(body)["data"]]).encode()
        body = encoded(self.coding, body)
        status = "400 Bad Request" if self.refuses and BAD in texts else "200 OK"
        lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}"]
        if self.coding:
            lines.append(f"content-encoding: {self.coding}")
        wire.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def _get(self, path: str) -> bytes:
        if path != "/info":
            return super()._get(path)
        document = {"model_id": "m", "model_type": {"embedding": {"pooling": "cls"}}, "max_input_length": 512}
        body = json.dumps(document).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@lru_cache(16)
def encoded(coding: str, body: bytes) -> bytes:
    return ENCODERS.get(coding.lower(), bytes)(body)


@dataclass
class Asked:
    """A caller's texts, and what it gets."""

    texts: list[str]
    base64: bool = False
    native: bool = False

    def send(self, door: InProcess) -> Caller:
        given = self.texts[0] if len(self.texts) == 1 else self.texts
        if self.native:
            body, route = {"inputs": given}, "/embed"
        else:
            body, route = {"model": "m", "input": given}, "/v1/embeddings"
            if self.base64:
                body["encoding_format"] = "base64"
        return Caller(door.port, timeout=4).send(post(route, json.dumps(body).encode()))

    def check(self, reply: Reply) -> None:
        """It got its own vectors, in the asked form or as the engine gave them; the bad text's is not looked at."""
        assert reply.status == 200, (self, reply)
        body = decoded(reply)
        found = body if isinstance(body, list) else [item["embedding"] for item in body["data"]]
        assert len(found) == len(self.texts)
        for text, got in zip(self.texts, found, strict=True):
            if text != BAD:
                assert unpacked(got) == vector(text), (text, got)


def decoded(reply: Reply) -> Any:
    """The document, of an answer that was relayed perhaps in the engine's own coding."""
    coding = reply.headers.get("content-encoding", "identity").lower()
    return json.loads(content_coding.decoded(codings_in([coding.encode()]), reply.body, 1 << 20))


def unpacked(found: Any) -> list[float]:
    if not isinstance(found, str):
        return list(found)
    packed = base64.b64decode(found)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


class House:
    """A gateway before an odd engine."""

    def __init__(self, engine: OddEngine, door: InProcess) -> None:
        self.engine = engine
        self.door = door

    def ask(self, asked: list[Asked]) -> list[Reply]:
        """All at once, at an engine that answers none before the gateway has all; nothing is left behind."""
        engine, door = self.engine, self.door
        engine.go.clear()
        try:
            before = door.ask(_requests)
            callers = [one.send(door) for one in asked]
            door.until(lambda running: _requests(running) - before == len(asked))
        finally:
            engine.go.set()
        replies = []
        for caller in callers:
            with caller:
                replies.append(caller.reply())
        door.until(is_calm)
        return replies


def _requests(running: RunningGateway) -> int:
    return running.gateway.embeddings.batcher.counters.requests


def is_calm(running: RunningGateway) -> bool:
    """Nothing is under way."""
    gateway, embeddings = running.gateway, running.gateway.embeddings
    windows = [engine.window for engine in gateway.engines.values()]
    left = (gateway.in_flight, gateway.scheduler.queued, embeddings.batcher.jobs, embeddings.batcher.size)
    return (
        not any(left)
        and not embeddings.batcher.merge_queues
        and not any(window.batches for window in windows)
    )


@contextmanager
def odd_house(**settings: Any) -> Iterator[House]:
    engine = OddEngine()
    with engine, gateway(InstanceSettings(url=engine.url, name="e0", engine="tei"), **settings) as door:
        yield House(engine, door)


def good(count: int = 9, **kind: Any) -> list[Asked]:
    return [Asked([f"good {n}"], **kind) for n in range(count)]
