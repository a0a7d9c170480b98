"""One tenant fills the queue: it displaces itself, and others still find a place."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings, LimitSettings
from sage_inference.gateway.tenants import tenants
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, Wire, ok
from tests.support.wire import CHAT, Caller, Reply, chat, post

KEYS = tuple(ApiKeySettings(key=Secret(name), name=name) for name in ("loud", "quiet", "third"))
EMBEDDINGS = "/v1/embeddings"
VECTOR = (
    '{"data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m","usage":{"prompt_tokens":1}}'
)


def when_told(wire: Wire) -> None:
    wire.engine.go.wait(20)
    ok(VECTOR)(wire)


@pytest.fixture
def engine() -> Iterator[RogueEngine]:
    with RogueEngine(when_told) as running:
        yield running


class Door:
    """Callers at a gateway whose engine has one slot, which is taken."""

    def __init__(
        self, stack: ExitStack, engine: RogueEngine, path: str, limits: LimitSettings, **more: object
    ):
        instance = InstanceSettings(url=engine.url, name="e", kind="mixed", max_concurrent_requests=1)
        self.g = stack.enter_context(gateway(instance, limits=limits, **more))
        self.path = path
        self.stack = stack
        self.number = 0
        self.comes("first")
        engine.arrived.get(timeout=10)

    def comes(self, who: str, size: int = 2, *, user: str | None = None) -> Caller:
        self.number += 1
        text = f"{self.number} " + "x" * size
        fields = {"user": user} if user else {}
        body = chat(text=text, **fields)
        if self.path == EMBEDDINGS:
            body = json.dumps({"model": "m", "input": text, **fields}).encode()
        caller = Caller(self.g.port)
        self.stack.callback(caller.sock.close)
        return caller.send(post(self.path, body, f"authorization: Bearer {who}"))

    def fill(self, who: str, count: int, user: str | None = None) -> list[Caller]:
        callers = []
        for _ in range(count):
            callers.append(self.comes(who, user=user))
            self.g.until(lambda _: waiting_of(self) >= self.number - 1)
        return callers


def waiting_of(door: Door) -> int:
    gateway_ = door.g.running.gateway
    return gateway_.embeddings.in_line if door.path == EMBEDDINGS else gateway_.scheduler.queued


def displaced(reply: Reply) -> bool:
    if reply.status == 200:
        return False
    assert (reply.status, reply.error["code"]) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    return True


FIRST = ApiKeySettings(key=Secret("first"), name="first")


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_another_tenant_finds_a_place_and_the_loud_one_loses_its_newest(
    engine: RogueEngine, path: str
) -> None:
    with ExitStack() as stack:
        door = Door(stack, engine, path, LimitSettings(queue_requests=5), api_keys=(*KEYS, FIRST))
        loud = door.fill("loud", 5)
        beyond = [door.comes("loud") for _ in range(3)]
        assert all(displaced(caller.reply()) for caller in beyond)
        quiet = [door.comes("quiet") for _ in range(2)]
        assert all(displaced(caller.reply()) for caller in loud[3:])
        third = door.comes("third")
        assert displaced(loud[2].reply())
        engine.go.set()
        assert [displaced(caller.reply()) for caller in (*loud[:2], *quiet, third)] == [False] * 5
        door.g.until(lambda r: r.gateway.in_flight == 0 and not r.gateway.embeddings.batcher.jobs)
        assert door.g.ask(lambda r: len(r.gateway.embeddings.batcher.shares)) == 0
        refused = door.g.ask(lambda r: r.gateway.stats.outcomes[path, 429])
        assert refused == 6


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_by_bytes_too(engine: RogueEngine, path: str) -> None:
    with ExitStack() as stack:
        limits = LimitSettings(queue_bytes=5000)
        door = Door(stack, engine, path, limits, api_keys=(*KEYS, FIRST))
        big = [door.comes("loud", 1500), door.comes("loud", 1500), door.comes("loud", 1500)]
        door.g.until(lambda _: waiting_of(door) == 3)
        small = [door.comes("quiet", 300) for _ in range(3)]
        assert displaced(big[2].reply())
        engine.go.set()
        assert not any(displaced(caller.reply()) for caller in (*big[:2], *small))


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
def test_without_keys_users_are_told_apart_by_the_field(engine: RogueEngine, path: str) -> None:
    with ExitStack() as stack:
        door = Door(stack, engine, path, LimitSettings(queue_requests=3))
        loud = door.fill("", 3, user="loud")
        quiet = door.comes("", user="quiet")
        assert displaced(loud[2].reply())
        engine.go.set()
        assert not any(displaced(caller.reply()) for caller in (*loud[:2], quiet))


def test_requests_behind_one_another_on_a_connection_are_each_answered_once(engine: RogueEngine) -> None:
    """A displaced request's connection goes on with the next at once, while the queue is still full."""
    with ExitStack() as stack:
        door = Door(stack, engine, CHAT, LimitSettings(queue_requests=2), api_keys=(*KEYS, FIRST))
        loud = door.fill("loud", 2)
        loud[1].chat("authorization: Bearer loud").chat("authorization: Bearer third")
        quiet = door.comes("quiet")
        assert displaced(loud[1].reply())
        assert displaced(loud[1].reply())  # loud has as much as quiet
        engine.go.set()
        assert not any(displaced(caller.reply()) for caller in (loud[0], quiet))
        loud[1].reply()
        door.g.until(lambda r: r.gateway.in_flight == 0)


def test_a_crowd_at_a_full_queue_costs_little(engine: RogueEngine) -> None:
    with ExitStack() as stack:
        door = Door(stack, engine, CHAT, LimitSettings(queue_requests=50), api_keys=(*KEYS, FIRST))
        loud = [door.comes("loud") for _ in range(70)]
        refused = 0
        began = time.monotonic()
        door.g.until(lambda r: r.gateway.stats.outcomes.get((CHAT, 429), 0) == 20)
        quiet = [door.comes("quiet") for _ in range(10)]
        door.g.until(lambda r: r.gateway.stats.outcomes.get((CHAT, 429), 0) == 30)
        assert time.monotonic() - began < 10
        engine.go.set()
        assert not any(displaced(caller.reply()) for caller in quiet)
        refused = sum(displaced(caller.reply()) for caller in loud)
        assert refused == 30


def test_keys_without_a_name_are_tenants_of_their_own(engine: RogueEngine) -> None:
    keys = tuple(ApiKeySettings(key=Secret(key)) for key in ("first", "loud", "quiet"))
    with ExitStack() as stack:
        door = Door(stack, engine, CHAT, LimitSettings(queue_requests=3), api_keys=keys)
        loud = door.fill("loud", 3)
        quiet = door.comes("quiet")
        assert displaced(loud[2].reply())
        engine.go.set()
        assert not any(displaced(caller.reply()) for caller in (*loud[:2], quiet))


def test_keys_of_one_name_are_one_tenants() -> None:
    one, other = (ApiKeySettings(key=Secret(key), name="team") for key in "ab")
    nameless = tuple(ApiKeySettings(key=Secret(key)) for key in "cd")
    assert [tenant for tenant, _ in tenants((one, *nameless, other))] == [
        "team",
        "default",
        "default-2",
        "team",
    ]
