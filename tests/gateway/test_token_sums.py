"""Tokens in metrics and usage are the sums that the engines reported, whatever callers and engines do."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sage_inference.usage.report import report
from sage_inference.usage.store import UsageStore
from tests.support.inprocess import gateway
from tests.support.prometheus import scrape, total
from tests.support.rogue import RogueEngine, Wire, chunk, ok, sse
from tests.support.wire import CHAT, Caller, post

REQUESTS = 10_000
CALLERS = 8
# What a request asks its engine for, and how often.
PLANS = {"whole": 6, "stream": 6, "no usage": 2, "leave": 2, "fail once": 2, "refuse": 1, "embed": 5}
DELTA = json.dumps({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]})
LAST = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


class Reported:
    """The sums of the usage that engines put into whole answers, and the streams that had none."""

    def __init__(self) -> None:
        self.tokens: Counter[str] = Counter()
        self.without = 0
        self.failed: set[str] = set()
        self._lock = threading.Lock()

    def usage(self, prompt: int, completion: int, cached: int) -> dict[str, object]:
        with self._lock:
            self.tokens.update(prompt=prompt, completion=completion, cached=cached)
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
        return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}

    def reports_none(self) -> None:
        with self._lock:
            self.without += 1

    def fails_first(self, name: str) -> bool:
        with self._lock:
            is_first = name not in self.failed
            self.failed.add(name)
        return is_first

    def answer(self, wire: Wire) -> None:
        body = json.loads(wire.body)
        if "input" in body:
            self._embed(wire, body["input"])
            return
        name: str = body["messages"][0]["content"]
        plan, _, number = name.partition(":")
        luck = random.Random(number)
        prompt, completion = luck.randint(1, 5000), luck.randint(1, 300)
        cached = luck.randint(0, prompt)
        if plan == "refuse":
            ok('{"error":{"message":"no","code":400}}', status="400 Bad Request")(wire)
        elif plan == "fail once" and self.fails_first(name):
            ok('{"error":{"message":"overloaded","code":503}}', status="503 Service Unavailable")(wire)
        elif plan == "leave":
            self.reports_none()
            wire.send(sse(*[DELTA] * luck.randint(1, 9)))
            wire.wait_for_peer_to_leave()
        elif plan == "no usage":
            self.reports_none()
            wire.send(sse(DELTA, DELTA, LAST, "[DONE]") + b"0\r\n\r\n")
        elif plan == "stream":
            usage = json.dumps({"choices": [], "usage": self.usage(prompt, completion, cached)})
            wire.send(sse(*[DELTA] * luck.randint(1, 9), LAST))
            wire.send(chunk(f"data: {usage}\n\ndata: [DONE]\n\n".encode()) + b"0\r\n\r\n")
        else:
            message = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
            ok(json.dumps({"choices": [message], "usage": self.usage(prompt, completion, cached)}))(wire)

    def _embed(self, wire: Wire, texts: list[str]) -> None:
        tokens = sum(len(text.split()) + 2 for text in texts)
        vectors = [{"object": "embedding", "index": at, "embedding": [0.5, 0.25]} for at in range(len(texts))]
        with self._lock:
            self.tokens.update(prompt=tokens)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        ok(json.dumps({"object": "list", "data": vectors, "model": "m", "usage": usage}))(wire)


def ask(port: int, numbers: range, plans: list[str]) -> int:
    """Send one caller's requests; returns the embedded texts."""
    texts = 0
    caller = Caller(port)
    for number in numbers:
        plan = plans[number]
        if plan == "embed":
            own = [f"text {number} {at}" * (1 + at % 3) for at in range(1 + number % 7)]
            texts += len(own)
            assert caller.send(post("/v1/embeddings", _embedding(own))).reply().status == 200
            continue
        name = f"{plan}:{number}"
        fields: dict[str, object] = {
            "model": "m",
            "messages": [{"role": "user", "content": name}],
            "user": f"user {number % 5}",
            "stream": plan in ("stream", "no usage", "leave"),
        }
        caller.send(post(CHAT, json.dumps(fields).encode()))
        if plan == "leave":
            assert caller.head().status == 200
            caller.chunk()
            caller.sock.close()
            caller = Caller(port)
        else:
            reply = caller.reply()
            assert reply.complete
            assert reply.status == (400 if plan == "refuse" else 200), reply.body
    caller.sock.close()
    return texts


def _embedding(texts: list[str]) -> bytes:
    return json.dumps({"model": "m", "input": texts}).encode()


def test_tokens_are_the_sums_that_engines_reported(tmp_path: Path) -> None:
    luck = random.Random(7)
    plans = luck.choices(list(PLANS), list(PLANS.values()), k=REQUESTS)
    reported = Reported()
    usage_file = tmp_path / "usage.db"
    with RogueEngine(reported.answer) as one, RogueEngine(reported.answer) as other:
        with gateway(one, other, usage_file=usage_file) as door:
            share = -(-REQUESTS // CALLERS)
            with ThreadPoolExecutor(CALLERS) as callers:
                parts = [range(begin, min(begin + share, REQUESTS)) for begin in range(0, REQUESTS, share)]
                texts = sum(callers.map(lambda part: ask(door.port, part, plans), parts))
            door.until(lambda r: r.gateway.stats.total == REQUESTS)
            found = scrape(door.url)
            assert door.ask(lambda r: r.gateway.scheduler.rates.retried) >= plans.count("fail once")
    for kind in ("prompt", "completion", "cached"):
        assert total(found, "sage_tokens_total", kind=kind) == reported.tokens[kind], kind
    assert total(found, "sage_texts_total") == texts
    assert total(found, "sage_requests_total") == REQUESTS
    assert total(found, "sage_requests_total", status="0") == plans.count("leave")
    assert reported.without == plans.count("leave") + plans.count("no usage")
    assert total(found, "sage_tokens_estimated_total", kind="completion") >= reported.without
    [kept_by_user, kept] = _kept(usage_file)
    assert kept["requests"] == REQUESTS
    measures = {"prompt": "prompt_tokens", "completion": "completion_tokens", "cached": "cached_tokens"}
    assert {kind: kept[measure] for kind, measure in measures.items()} == dict(reported.tokens)
    assert sum(user["requests"] for user in kept_by_user) == REQUESTS


def _kept(usage_file: Path) -> tuple[list[dict[str, int]], dict[str, int]]:
    return report(UsageStore(usage_file).rows(0, 1 << 40), "user")
