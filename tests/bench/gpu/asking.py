"""Callers that look closely at their answers: single requests, and crowds of streams under which an engine ends."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from sage_inference.bench.text import WORDS

_PACE_S = 0.1


@dataclass(slots=True)
class Answer:
    """One stream as its caller saw it. ``done``: it ended with ``[DONE]``."""

    status: int = 0
    instance: str = ""
    ttft_s: float | None = None
    chunks: int = 0
    done: bool = False
    finish: str = ""
    tokens: int | None = None
    error: str = ""
    text: list[str] = field(default_factory=list)


def client(timeout_s: float = 60.0) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=400)
    return httpx.AsyncClient(timeout=timeout_s, trust_env=False, verify=False, limits=limits)


def ask(url: str, path: str, body: object = None, timeout_s: float = 30.0) -> httpx.Response:
    method = "GET" if body is None else "POST"
    return httpx.request(method, url + path, json=body, timeout=timeout_s, trust_env=False, verify=False)


def chat(model: str, tokens: int, *, words: int = 40, seed: int = 0, **more: Any) -> dict[str, Any]:
    """A chat whose words the model's tokenizer takes as one token each."""
    content = f" {seed} {' '.join(random.Random(seed).choices(WORDS, k=words))}"
    return {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": content}], **more}


async def stream(
    http: httpx.AsyncClient, url: str, body: dict[str, Any], *, leave_after: int | None = None
) -> Answer:
    answer = Answer()
    began = time.perf_counter()
    sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with http.stream("POST", f"{url}/v1/chat/completions", json=sent) as response:
            answer.status = response.status_code
            answer.instance = response.headers.get("x-sage-instance", "")
            async for line in response.aiter_lines():
                _read(answer, line, began)
                if answer.done or (leave_after is not None and answer.chunks >= leave_after):
                    break
    except httpx.HTTPError as error:
        answer.error = answer.error or repr(error)
    return answer


def _read(answer: Answer, line: str, began: float) -> None:
    if not line.startswith("data: "):
        if line and answer.status != 200:
            answer.error += line
        return
    if line == "data: [DONE]":
        answer.done = True
        return
    event = json.loads(line.removeprefix("data: "))
    if "error" in event:
        answer.error = json.dumps(event["error"])
        return
    answer.tokens = (event.get("usage") or {}).get("completion_tokens", answer.tokens)
    for choice in event.get("choices") or ():
        answer.finish = choice.get("finish_reason") or answer.finish
        if (choice.get("delta") or {}).get("content"):
            answer.chunks += 1
            answer.text.append(choice["delta"]["content"])
            if answer.ttft_s is None:
                answer.ttft_s = time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Crowd:
    """``first``: streams under way when the act happened. ``later``: those that came after it."""

    first: Sequence[Answer]
    later: Sequence[Answer]

    def figures(self, wanted: int) -> dict[str, Any]:
        """``wanted``: the tokens that each of the first ones asked for."""
        served = [one for one in self.later if one.done and not one.error]
        return {
            "first": len(self.first),
            "first_done": sum(one.done and not one.error for one in self.first),
            "first_error_event": sum(bool(one.error) for one in self.first),
            "first_error_and_done": sum(one.done and bool(one.error) for one in self.first),
            "first_silently_cut": sum(not one.done and not one.error for one in self.first),
            "first_short_but_done": sum(
                one.done and not one.error and (one.tokens or one.chunks) < wanted for one in self.first
            ),
            "finish_reasons": dict(Counter(one.finish or "none" for one in self.first)),
            "errors": sorted({one.error[:160] for one in self.first if one.error})[:3],
            "later": len(self.later),
            "later_served": len(served),
            "later_errors": sorted({f"{one.status} {one.error[:120]}" for one in self.later if one.error})[
                :3
            ],
            "later_by": dict(Counter(one.instance or "none" for one in self.later)),
            "later_worst_ttft_ms": 1000 * max((one.ttft_s or 0.0 for one in served), default=0.0),
        }


def crowd(
    url: str,
    model: str,
    *,
    first: int,
    tokens: int,
    later: int,
    act: Callable[[], object],
    after_s: float = 1.0,
) -> Crowd:
    """``first`` streams of ``tokens`` each; then ``act``; then ``later`` short ones, one after another."""

    async def play() -> Crowd:
        async with client(90) as http:
            under_way = [
                _start(stream(http, url, chat(model, tokens, seed=number, ignore_eos=True)))
                for number in range(first)
            ]
            await asyncio.sleep(after_s)
            await asyncio.to_thread(act)
            new = []
            for number in range(later):
                body = chat(model, 20, seed=1000 + number, ignore_eos=True)
                new.append(_start(stream(http, url, body)))
                await asyncio.sleep(_PACE_S)
            return Crowd(await asyncio.gather(*under_way), await asyncio.gather(*new))

    return asyncio.run(play())


def _start(work: Awaitable[Answer]) -> asyncio.Task[Answer]:
    return asyncio.ensure_future(work)
