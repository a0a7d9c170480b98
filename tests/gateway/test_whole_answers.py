"""What answers in one piece teach a gateway of the engines behind it, on real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import InstanceSettings
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.listing import ListingEngine, Reply

CHAT = "/v1/chat/completions"
TOKENS = 20


def answering(seconds: float, choices: int = 1) -> Callable[[str, dict[str, Any]], Reply]:
    """So many choices of ``TOKENS`` each, after so many seconds."""

    def post(path: str, document: dict[str, Any]) -> Reply:
        time.sleep(seconds)
        made = [{"index": n, "message": {"content": "hi"}, "finish_reason": "stop"} for n in range(choices)]
        usage = {"prompt_tokens": 3, "completion_tokens": TOKENS * choices}
        return 200, {"choices": made, "usage": usage}

    return post


def paces(running: RunningGateway) -> list[float]:
    return [engine.instance.load.ms_per_token for engine in running.gateway.engines.values()]


def asked_until(g: InProcess, fact: Callable[[list[float]], bool], seconds: float) -> bool:
    """Four callers ask for answers in one piece until the paces are as they should be."""
    over = threading.Event()
    client = httpx.Client(trust_env=False, timeout=20)

    def ask(_: int) -> None:
        while not over.is_set():
            body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            assert client.post(g.url + CHAT, json=body).status_code == 200

    with client, ThreadPoolExecutor(4) as callers:
        asking = [callers.submit(ask, number) for number in range(4)]
        end = time.monotonic() + seconds
        while not (found := fact(g.ask(paces))) and time.monotonic() < end:
            time.sleep(0.05)
        over.set()
        for each in asking:
            each.result()
    return found


def before(*engines: ListingEngine) -> Any:
    return gateway(*(InstanceSettings(url=each.url, name=f"e{n}") for n, each in enumerate(engines)))


def two(first: Callable[[str, dict[str, Any]], Reply], second: Callable[[str, dict[str, Any]], Reply]) -> Any:
    routes = [CHAT]
    return (
        ListingEngine("m", post=first, owner="vllm", routes=routes),
        ListingEngine("m", post=second, owner="vllm", routes=routes),
    )


def ready(g: InProcess) -> None:
    g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))


def test_an_engine_whose_answers_take_longer_is_known_to_be_slow() -> None:
    fast, slow = two(answering(0.02), answering(0.2))
    with fast, slow, before(fast, slow) as g:
        ready(g)
        assert asked_until(g, lambda found: found[1] > 1.6 * found[0], 20)


@pytest.mark.parametrize("choices", [8])
def test_an_engine_that_is_asked_for_more_choices_does_not_look_fast(choices: int) -> None:
    one, many = two(answering(0.05), answering(0.05, choices))
    with one, many, before(one, many) as g:
        ready(g)
        assert not asked_until(g, lambda found: max(found) > 1.4 * min(found), 3)
        shown = g.ask(lambda r: [b.answers for b in r.gateway.scheduler.ledger.relative._of.values()])
        assert min(shown) > 5  # they did teach


def test_the_choices_of_a_request_reach_its_attempt() -> None:
    (engine, other) = two(answering(0.0, 3), answering(0.0))
    with engine, other, before(engine) as g, httpx.Client(trust_env=False, timeout=20) as client:
        ready(g)
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "n": 3}
        answer = client.post(g.url + CHAT, json=body, headers={"x-request-id": "three"})
        assert answer.status_code == 200
        attempts = g.ask(lambda r: [each.request.choices for each in r.gateway.decisions.of("three")])
        assert attempts == [3]
