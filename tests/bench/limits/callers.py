"""Callers of one key, which repeat a refused request when the answer asks for it, as SDKs do."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.bench.limits.account import Account, Served
from tests.bench.limits.asks import Ask, draw
from tests.bench.soak.wire import Answer, Connection

_LIMIT = re.compile(rb"api_keys\[\]\.limits\.(\w+)")
_USAGE = re.compile(rb'"usage":\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_ESTIMATE = 1.5  # times its tokens: a prompt without a usage, until the gateway knows the model
_NO_TOKENS = 3  # chunks of a stream that have no token: the role, the end, the usage


class LeftError(EOFError):
    """The caller has read enough of a stream."""


class LeavingConnection(Connection):
    """A caller's connection. ``begun`` is called when the body of an answer begins."""

    def __init__(self, port: int, begun: Callable[[Answer], None]) -> None:
        super().__init__(port)
        self._begun = begun
        self.leaves_after: int | None = None
        self._pieces = 0

    async def ask(self, request: bytes) -> Answer:
        self._pieces = 0
        return await super().ask(request)

    async def _body(self, answer: Answer, reader: asyncio.StreamReader, size: int) -> None:
        if not self._pieces:
            self._begun(answer)
        await super()._body(answer, reader, size)
        self._pieces += 1
        if self.leaves_after is not None and self._pieces >= self.leaves_after and answer.status == 200:
            raise LeftError


@dataclass(slots=True)
class Crowd:
    """All callers of a run. ``prompt_tokens``: by model and number of words. ``over`` ends the run."""

    port: int
    prompt_tokens: Mapping[tuple[str, int], int]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.over.wait()
        except TimeoutError:
            pass


async def caller(crowd: Crowd, account: Account, rng: random.Random, rest_s: float = 0.0) -> None:
    """One request after the other, until the end of the run."""

    def begun(answer: Answer) -> None:
        if answer.status == 200:
            account.begun()

    async with LeavingConnection(crowd.port, begun) as connection:
        while not crowd.over.is_set():
            ask = draw(rng, crowd.prompt_tokens)
            connection.leaves_after = ask.leaves_after
            account.asking += 1
            at = crowd.now()
            answer = await connection.ask(ask.request(account.secret))
            wait_s = _settle(account, ask, (at, crowd.now()), answer)
            account.asking -= 1
            await crowd.pause(max(wait_s, rest_s) * rng.uniform(1, 1.1))


def _settle(account: Account, ask: Ask, when: tuple[float, float], answer: Answer) -> float:
    """Book the answer, and return the seconds that the caller has to wait."""
    if answer.status == 200:
        account.running -= 1
        account.note(ask, Served(*when, *_tokens(ask, answer)))
        return 0.0
    named = _LIMIT.search(answer.body)
    if answer.status == 429 and named:
        account.refused(named[1].decode())
        given = answer.headers.get("retry-after-ms")
        return int(given) / 1000 if given else float(answer.headers["retry-after"])
    account.others[answer.status] += 1
    return 0.1


def _tokens(ask: Ask, answer: Answer) -> tuple[int, int]:
    """The tokens that the request took, at least and at most."""
    found = _USAGE.findall(bytes(answer.body))
    if found:
        usage = json.loads(found[-1])
        total = usage["prompt_tokens"] + (usage.get("completion_tokens") or 0)
        return total, total
    # The gateway estimates the prompt and counts chunks, and the record of usage has nothing before the second one.
    return 0, round(ask.prompt_tokens * _ESTIMATE) + ask.max_tokens + _NO_TOKENS
