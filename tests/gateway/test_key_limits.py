"""Limits by key, as callers see them: refusals, headers, the models of a key, and what is given back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import (
    ApiKeySettings,
    InstanceSettings,
    KeyLimitSettings,
    LimitSettings,
)
from sage_inference.gateway.key_limits.budget import KeyBudget
from sage_inference.gateway.key_limits.headers import duration
from tests.gateway.test_tally import DELTA, USAGE, plain
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, chunk, ok, raw, sse
from tests.support.wire import CHAT, Caller, Reply, chat, post

OPEN = raw(sse(DELTA, DELTA, DELTA), then="silent")  # a stream that has no end
A, B = "authorization: Bearer sk-a", "authorization: Bearer sk-b"


def key(name: str, **limits: Any) -> ApiKeySettings:
    return ApiKeySettings(key=Secret(f"sk-{name}"), name=name, limits=KeyLimitSettings(**limits))


@contextlib.contextmanager
def door(answer: Answer, *keys: ApiKeySettings, **settings: Any) -> Iterator[tuple[InProcess, Caller]]:
    """A gateway before one engine that always gives this answer, and a caller of it."""
    with (
        RogueEngine(answer) as engine,
        gateway(
            InstanceSettings(url=engine.url, name="only", kind="mixed"), api_keys=keys, **settings
        ) as running,
        Caller(running.port) as caller,
    ):
        yield running, caller


def budget(running: InProcess, name: str = "a") -> KeyBudget:
    running.ask(lambda _: None)  # the records of the last request are made by then
    found = running.ask(lambda r: r.gateway.budgets.of(name))
    assert found is not None
    return found


def refused(reply: Reply, code: str, status: int = 429) -> None:
    assert (reply.status, reply.error["code"]) == (status, code)


def test_requests_beyond_those_of_a_minute_are_refused_and_another_key_goes_on() -> None:
    with door(plain(USAGE), key("a", requests_per_minute=2), key("b")) as (running, caller):
        seen = [caller.chat(A).reply() for _ in range(4)]
        assert [reply.status for reply in seen] == [200, 200, 429, 429]
        refused(seen[2], "rate_limit_exceeded")
        assert seen[2].error["message"].startswith('the key "a" may use 2 requests a minute')
        assert 1 <= int(seen[2].headers["retry-after"]) <= 60
        assert 0 < int(seen[2].headers["retry-after-ms"]) <= 60000
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in seen] == ["1", "0", "0", "0"]
        assert seen[0].headers["x-ratelimit-limit-requests"] == "2"
        assert seen[0].headers["x-ratelimit-reset-requests"].startswith(("1m", "59.", "60s"))
        other = caller.chat(B).reply()  # on the same connection: a refusal does not close it
        assert other.status == 200
        assert not [name for name in other.headers if "ratelimit" in name]
        assert budget(running).refused == 2


def test_tokens_are_those_that_the_engine_reported() -> None:
    with door(plain(USAGE), key("a", tokens_per_minute=1000)) as (running, caller):
        first = caller.chat(A, max_tokens=100).reply()
        assert int(first.headers["x-ratelimit-remaining-tokens"]) < 900  # what it may use, before it ended
        assert budget(running).tokens.total == 12
        assert caller.chat(A, max_tokens=100).reply().status == 200
        found = budget(running)
        assert (found.tokens.total, found.reserved, found.active, found.tokens_today()) == (24, 0, 0, 24)


def test_a_key_is_over_its_tokens_by_its_last_request_at_most() -> None:
    with door(plain(USAGE), key("a", tokens_per_minute=30)) as (running, caller):
        seen = [caller.chat(A).reply().status for _ in range(5)]
        assert seen == [200, 200, 200, 429, 429]
        assert budget(running).tokens.total == 36


def test_the_tokens_of_a_day_are_no_reason_to_retry_before_the_next_one() -> None:
    with door(plain(USAGE), key("a", tokens_per_day=12)) as (_, caller):
        assert caller.chat(A).reply().status == 200
        again = caller.chat(A).reply()
        refused(again, "insufficient_quota")
        assert again.headers["x-should-retry"] == "false"
        assert 1 <= int(again.headers["retry-after"]) <= 86400
        assert again.headers["x-ratelimit-limit-tokens"] == "12"


def test_requests_at_the_same_time_are_limited_and_not_queued() -> None:
    with door(OPEN, key("a", concurrent_requests=1)) as (running, caller):
        assert caller.chat(A, stream=True).head().status == 200
        with Caller(running.port) as second:
            refused(second.chat(A).reply(), "rate_limit_exceeded")
            caller.sock.close()
            running.until(lambda r: not r.gateway.budgets.by_name["a"].active)
            assert second.chat(A, stream=True).head().status == 200


def test_a_stream_that_its_caller_leaves_counts_what_was_written() -> None:
    with door(OPEN, key("a", tokens_per_minute=5000)) as (running, caller):
        caller.chat(A, stream=True, max_tokens=300)
        caller.head()
        assert budget(running).reserved > 300
        caller.sock.close()
        running.until(lambda r: not r.gateway.budgets.by_name["a"].active)
        found = budget(running)
        assert found.reserved == 0
        assert 3 <= found.tokens.total < 60  # the prompt and three chunks


def test_a_stream_reserves_more_once_it_wrote_more_than_was_expected() -> None:
    with (
        RogueEngine(OPEN) as engine,
        gateway(engine, api_keys=(key("a", tokens_per_minute=5000),)) as running,
        Caller(running.port) as caller,
    ):
        caller.chat(A, stream=True, max_tokens=1).head()
        before = budget(running).reserved
        for _ in range(9):
            engine.arrived.queue[0].send(chunk(f"data: {DELTA}\n\n".encode()))
            while DELTA.encode() not in caller.chunk():
                pass
        running.ask(lambda r: r.gateway.budgets.tick())
        assert budget(running).reserved > before


def test_a_request_that_no_engine_got_costs_nothing() -> None:
    with door(plain(USAGE), key("a", requests_per_minute=3, tokens_per_minute=1000)) as (running, caller):
        reply = caller.send(post(CHAT, chat("unknown"), A)).reply()
        assert reply.status == 404
        found = budget(running)
        assert (found.requests.total, found.tokens.total, found.reserved, found.active) == (1, 0, 0, 0)


def test_a_request_that_the_queue_refused_does_not_count() -> None:
    settings = {"limits": LimitSettings(queue_requests=0)}
    with (
        RogueEngine(OPEN) as engine,
        gateway(
            InstanceSettings(url=engine.url, name="only", kind="mixed", max_concurrent_requests=1),
            api_keys=(key("a", requests_per_minute=5, tokens_per_minute=9000), key("b")),
            **settings,
        ) as running,
        Caller(running.port) as first,
        Caller(running.port) as second,
    ):
        first.chat(B, stream=True).head()
        refused(second.chat(A).reply(), "queue_full")
        found = budget(running)
        assert (found.requests.total, found.tokens.total, found.reserved) == (0, 0, 0)


def test_an_engines_error_costs_a_request_and_no_tokens() -> None:
    bad = ok(json.dumps({"error": {"message": "no", "type": "x"}}), status="400 Bad Request")
    with door(bad, key("a", requests_per_minute=5, tokens_per_minute=900)) as (running, caller):
        assert caller.chat(A).reply().status == 400
        found = budget(running)
        assert (found.requests.total, found.tokens.total, found.reserved) == (1, 0, 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "m", "prompt": "hi"}),
        ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", {"model": "m", "input": "hi"}),
        ("/v1/embeddings", {"model": "m", "input": "hi"}),
        ("/v1/rerank", {"model": "m", "query": "hi", "documents": ["a"]}),
        ("/v2/rerank", {"model": "m", "query": "hi", "documents": ["a"]}),
        ("/tokenize", {"model": "m", "prompt": "hi"}),
        ("/pooling", {"model": "m", "input": "hi"}),
        ("/v1/audio/speech", {"model": "m", "input": "hi"}),
        ("/embed", {"inputs": "hi"}),
        ("/", {"inputs": "hi"}),
        ("/info", None),
    ],
)
def test_every_relayed_route_has_the_limits_and_the_shape_of_its_errors(path: str, body: Any) -> None:
    with door(plain(USAGE), key("a", requests_per_minute=1, models=("m",))) as (running, caller):
        message = b"GET /info HTTP/1.1\r\nhost: localhost\r\n" + A.encode() + b"\r\n\r\n"
        if body is not None:
            message = post(path, json.dumps(body).encode(), A)
        caller.send(message).reply()
        running.ask(lambda _: None)
        if not running.ask(lambda r: r.gateway.budgets.by_name["a"].requests.total):
            running.ask(lambda r: r.gateway.budgets.by_name["a"].enter().end(0))  # no engine serves the route
        reply = caller.send(message).reply()
        assert reply.status == 429, reply
        document = json.loads(reply.body)
        if path == "/v1/messages":
            assert document["type"] == "error"
            assert document["error"]["type"] == "rate_limit_error"
            assert reply.headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert reply.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        else:
            assert document["error"]["code"] == "rate_limit_exceeded"
            assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert budget(running).active == 0


def test_a_long_body_is_refused_before_it_comes() -> None:
    with door(plain(USAGE), key("a", requests_per_minute=1)) as (running, caller):
        assert caller.chat(A).reply().status == 200
        for extra in ("content-length: 9000000", "transfer-encoding: chunked", "expect: 100-continue"):
            with Caller(running.port) as other:
                size = () if "length" in extra or "chunked" in extra else ("content-length: 9",)
                lines = ("POST /v1/chat/completions HTTP/1.1", "host: localhost", A, extra, *size)
                reply = other.send(("\r\n".join(lines) + "\r\n\r\n").encode()).reply()
                refused(reply, "rate_limit_exceeded")
                assert reply.headers["x-ratelimit-remaining-requests"] == "0"
                assert other.closed()


def test_only_the_models_of_a_key_are_served_and_listed() -> None:
    with (
        RogueEngine(plain(USAGE), model="qwen2.5-7b") as one,
        RogueEngine(plain(USAGE), model="bge-m3") as other,
        gateway(
            one,
            other,
            api_keys=(key("a", models=("qwen*",)), key("b", models=("gpt-4o",))),
            aliases={"gpt-4o": "qwen2.5-7b"},
        ) as running,
        Caller(running.port) as caller,
    ):
        for right in (A, B):
            for name in ("qwen2.5-7b", "gpt-4o"):
                assert caller.send(post(CHAT, chat(name), right)).reply().status == 200
            denied = caller.send(post(CHAT, chat("bge-m3"), right)).reply()
            refused(denied, "model_not_allowed", 403)
            refused(caller.send(post(CHAT, chat("qwe"), right)).reply(), "model_not_allowed", 403)
            lines = ("GET /v1/models HTTP/1.1", "host: localhost", right)
            listed = caller.send(("\r\n".join(lines) + "\r\n\r\n").encode()).reply()
            assert [card["id"] for card in json.loads(listed.body)["data"]] == ["qwen2.5-7b", "gpt-4o"]
            lines = ("GET /v1/models/bge-m3 HTTP/1.1", "host: localhost", right)
            assert caller.send(("\r\n".join(lines) + "\r\n\r\n").encode()).reply().status == 404
        assert "it may use qwen*" in caller.send(post(CHAT, chat("bge-m3"), A)).reply().error["message"]


def test_the_answers_of_other_routes_report_the_limits_too() -> None:
    with door(plain(USAGE), key("a", requests_per_minute=7)) as (_, caller):
        listed = caller.send(f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{A}\r\n\r\n".encode()).reply()
        assert listed.headers["x-ratelimit-remaining-requests"] == "7"


def test_limits_that_an_engine_reports_are_not_the_callers() -> None:
    theirs = ok(json.dumps({"usage": USAGE}), "X-RateLimit-Limit-Requests: 99", "x-ratelimit-other: 1")
    with door(theirs, key("a", requests_per_minute=7), key("b")) as (_, caller):
        assert caller.chat(A).reply().headers["x-ratelimit-limit-requests"] == "7"
        assert caller.chat(B).reply().headers["x-ratelimit-limit-requests"] == "99"


# The SDK of OpenAI


def client_of(running: InProcess, retries: int) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(trust_env=False, verify=False)
    return openai.OpenAI(
        base_url=f"{running.url}/v1", api_key="sk-a", max_retries=retries, timeout=30, http_client=http
    )


def test_the_openai_sdk_waits_as_long_as_the_answer_asks_and_repeats_the_request() -> None:
    with (
        RogueEngine(OPEN) as stream,
        RogueEngine(plain(USAGE), model="other") as engine,
        gateway(stream, engine, api_keys=(key("a", concurrent_requests=1),)) as running,
        Caller(running.port) as holder,
        client_of(running, retries=1) as client,
    ):
        assert holder.chat(A, stream=True).head().status == 200

        def let_go() -> None:
            running.until(lambda r: r.gateway.budgets.by_name["a"].refused == 1)
            holder.sock.close()

        with ThreadPoolExecutor(1) as pool:
            letting = pool.submit(let_go)
            began = time.monotonic()
            client.chat.completions.create(model="other", messages=[{"role": "user", "content": "hi"}])
            took = time.monotonic() - began
            letting.result()
        assert 0.95 < took < 10  # ``retry-after-ms`` is 1000; the SDK's own first wait is at most 0.5 s
        assert budget(running).refused == 1


def test_the_openai_sdk_does_not_repeat_a_request_that_only_the_next_day_will_allow() -> None:
    with (
        door(plain(USAGE), key("a", tokens_per_day=12)) as (running, _),
        client_of(running, retries=3) as client,
    ):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.RateLimitError) as refused_now:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert refused_now.value.code == "insufficient_quota"
        assert budget(running).refused == 1


# Keys that come and go


def reload(running: InProcess, *keys: ApiKeySettings) -> None:
    running.settings_to_load = replace(running.ask(lambda r: r.gateway.settings), api_keys=keys)
    running.ask(lambda r: r.reload())


def hashed(name: str, **limits: Any) -> ApiKeySettings:
    digest = hashlib.sha256(f"sk-{name}".encode()).hexdigest()
    return ApiKeySettings(key_hash=f"sha256:{digest}", name=name, limits=KeyLimitSettings(**limits))


def test_a_key_that_is_stored_as_its_hash_opens_the_gateway() -> None:
    with door(plain(USAGE), hashed("a", requests_per_minute=1)) as (_, caller):
        assert caller.chat(A).reply().status == 200
        assert caller.chat(A).reply().status == 429
        assert caller.chat(B).reply().status == 401


def test_a_revoked_key_is_out_on_a_connection_that_is_open() -> None:
    with door(plain(USAGE), key("a"), key("b")) as (running, caller):
        assert caller.chat(A).reply().status == 200
        reload(running, key("b"))
        assert caller.chat(A).reply().status == 401
        reload(running, key("a"), key("b"))
        assert Caller(running.port).chat(A).reply().status == 200


def test_waiting_requests_of_a_revoked_key_are_ended_and_its_answers_go_on() -> None:
    with (
        RogueEngine(raw(sse(DELTA, DELTA))) as engine,
        gateway(
            InstanceSettings(url=engine.url, name="only", kind="mixed", max_concurrent_requests=1),
            api_keys=(hashed("a"), key("b")),
        ) as running,
        contextlib.ExitStack() as stack,
    ):
        first, waits, waits_too, sends = (stack.enter_context(Caller(running.port)) for _ in range(4))
        assert first.chat(A, stream=True).head().status == 200
        waits.chat(A)
        waits_too.chat(B)
        sends.send(post(CHAT, chat(), A)[:-5])
        running.until(lambda r: r.gateway.scheduler.queued == 2)
        reload(running, key("b"))
        for ended in (waits, sends):
            assert ended.reply().status == 401
            assert ended.closed()
        assert running.ask(lambda r: r.gateway.scheduler.queued) == 1
        engine.arrived.get(timeout=5).send(b"0\r\n\r\n")
        while first.chunk():
            pass
        assert first.closed()
        assert waits_too.head().status == 200


def test_limits_change_without_a_restart_and_what_was_used_counts_on() -> None:
    with door(plain(USAGE), key("a", requests_per_minute=1)) as (running, caller):
        assert caller.chat(A).reply().status == 200
        assert caller.chat(A).reply().status == 429
        reload(running, key("a", requests_per_minute=2))
        assert [caller.chat(A).reply().status for _ in range(2)] == [200, 429]
        reload(running, key("a"))
        assert caller.chat(A).reply().status == 200
        reload(running, key("a", requests_per_minute=2))
        assert caller.chat(A).reply().status == 429


# A day goes on after a restart


@pytest.fixture
def usage_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "usage.db"
    monkeypatch.setattr(InProcess, "usage_file", path)
    return path


def test_tokens_of_a_day_count_on_after_a_restart(usage_file: Path) -> None:
    keys = key("a", tokens_per_day=30), key("b", tokens_per_day=30)
    for after in (12, 24):
        with door(plain(USAGE), *keys) as (running, caller):
            assert caller.chat(A).reply().status == 200
            found = budget(running)
            assert (found.tokens_today(), found.remaining_today()) == (after, 30 - after)
            assert budget(running, "b").tokens_today() == 0
    with door(plain(USAGE), *keys) as (_, caller):
        assert [caller.chat(A).reply().status for _ in range(2)] == [200, 429]
        assert caller.chat(B).reply().status == 200


def test_a_limit_of_a_day_that_comes_later_counts_what_was_used_before(usage_file: Path) -> None:
    with door(plain(USAGE), key("a")) as (running, caller):
        assert caller.chat(A).reply().status == 200
        reload(running, key("a", tokens_per_day=1000))
        assert caller.chat(A).reply().status == 200
        running.until(lambda r: r.gateway.budgets.by_name["a"].tokens_today() == 24)


def test_a_record_of_usage_that_cannot_be_read_begins_a_new_day(
    usage_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usage_file.mkdir()
    with door(plain(USAGE), key("a", tokens_per_day=12)) as (_, caller):
        assert [caller.chat(A).reply().status for _ in range(2)] == [200, 429]
    assert "tokens that keys used earlier today do not count" in caplog.text


def test_durations_are_written_as_openai_writes_them() -> None:
    assert [duration(s) for s in (0, 0.0121, 1, 8.64, 59.99999, 72, 360, 12005)] == [
        "0ms",
        "13ms",
        "1s",
        "8.64s",
        "60s",
        "1m12s",
        "6m0s",
        "3h20m5s",
    ]
