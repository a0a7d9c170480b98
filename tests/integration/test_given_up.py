"""Engines that stop under their requests: the callers' bytes are the engine's own, the books show what happened."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.decisions import attempts
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import simulated_engine
from tests.support.wire import Caller, Reply, post

TOKENS, JSON = 4000, "content-type: application/json"


def ask(g: InProcess, name: str, **fields: Any) -> Reply:
    with Caller(g.port) as caller:
        wanted = {"model": "simulated-llm", "max_tokens": TOKENS, "ignore_eos": True, **fields}
        return caller.chat(f"x-request-id: {name}", JSON, **wanted).reply()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_answers_that_sigterm_ends_early_are_booked_as_aborted(pool: ThreadPoolExecutor) -> None:
    with simulated_engine("vllm", "--shutdown-timeout", "0") as engine, gateway(engine) as g:
        g.until(lambda r: r.gateway.can_serve)
        usage = {"include_usage": True}
        streams = [pool.submit(ask, g, f"s{n}", stream=True, stream_options=usage) for n in range(4)]
        plain = pool.submit(ask, g, "plain")
        engine.wait(running=5)
        engine.process.send_signal(signal.SIGTERM)
        for number, stream in enumerate(streams):
            reply = stream.result(30)
            assert reply.complete
            assert reply.body.endswith(b"data: [DONE]\n\n")
            assert b'"finish_reason":"abort"' in reply.body
            [attempt] = attempts(g, f"s{number}")
            assert (attempt["outcome"], attempt["status"]) == ("aborted", 200)
            assert attempt["completion_tokens"] < TOKENS
            assert not attempt["prompt_tokens_estimated"]
        body = json.loads(plain.result(30).body)
        assert body["choices"][0]["finish_reason"] == "abort"
        [attempt] = attempts(g, "plain")
        assert (attempt["outcome"], attempt["completion_tokens"]) == (
            "aborted",
            body["usage"]["completion_tokens"],
        )
        assert g.ask(lambda r: r.gateway.stats.engine_failures) == 5
        g.until(lambda r: not r.gateway.can_serve)  # it was ejected, or is found gone


@pytest.mark.parametrize("streamed", [True, False])
def test_messages_that_sigterm_ends_early_are_booked_as_aborted(
    pool: ThreadPoolExecutor, streamed: bool
) -> None:
    """vLLM reports no stop reason there: null in the stream's last delta, and none at all in a plain answer."""
    with simulated_engine("vllm", "--shutdown-timeout", "0") as engine, gateway(engine) as g:
        g.until(lambda r: r.gateway.can_serve)
        finished = _message(g, "finished", streamed, 3)
        assert b'"stop_reason":"max_tokens"' in finished.body
        cut = pool.submit(_message, g, "cut", streamed, TOKENS)
        engine.wait(running=1)
        engine.process.send_signal(signal.SIGTERM)
        reply = cut.result(30)
        assert reply.complete
        assert b'"stop_reason":"' not in reply.body
        assert [each["outcome"] for each in attempts(g, "finished")] == ["done"]
        assert [each["outcome"] for each in attempts(g, "cut")] == ["aborted"]
        assert g.ask(lambda r: r.gateway.stats.engine_failures) == 1


def _message(g: InProcess, name: str, streamed: bool, tokens: int) -> Reply:
    asked = {"model": "simulated-llm", "max_tokens": tokens, "ignore_eos": True, "stream": streamed}
    asked["messages"] = [{"role": "user", "content": "Hello"}]
    with Caller(g.port) as caller:
        request = post("/v1/messages", json.dumps(asked).encode(), f"x-request-id: {name}", JSON)
        return caller.send(request).reply()


def test_streams_whose_engine_core_dies_are_booked_as_failed() -> None:
    with simulated_engine("vllm", "--speed", "instant") as engine, gateway(engine) as g:
        g.until(lambda r: r.gateway.can_serve)
        engine.faults(error_after_chunks=2)
        reply = ask(g, "died", max_tokens=9, stream=True)
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert [each["outcome"] for each in attempts(g, "died")] == ["failed"]


def test_usage_is_read_where_it_comes_apart_from_the_end() -> None:
    with simulated_engine("vllm", "--speed", "instant") as engine, gateway(engine) as g:
        g.until(lambda r: r.gateway.can_serve)
        engine.faults(slow_drip_ms=2)
        for number in range(4):
            ask(g, f"apart-{number}", max_tokens=5, stream=True, stream_options={"include_usage": True})
            [attempt] = attempts(g, f"apart-{number}")
            assert (attempt["completion_tokens"], attempt["prompt_tokens_estimated"]) == (5, False)
