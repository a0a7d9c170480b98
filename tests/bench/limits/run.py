"""One run: a gateway with many keys before engines that refuse some requests, its callers, and the outcome."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tests.bench.limits.account import Account, Served, accounts
from tests.bench.limits.asks import EMBEDDER, LLM, WORDS, Ask, body_of
from tests.bench.limits.callers import Crowd, caller
from tests.bench.outage.phases import Row
from tests.bench.soak.flat import in_flight
from tests.support.gateway import Gateway, running_gateway
from tests.support.simulators import SimulatedEngine

KEYS = 20
_UNUSED_PERCENT = 2.0
_FULL_POLL_S = 0.05
_SETTLE_S = 10.0
_FREE_REST_S = 0.05  # between the requests of the key without limits
_TROUBLE_S = (0.1, 0.6)
_TROUBLES: tuple[dict[str, Any], ...] = (
    {"status": 503, "count": 2},
    {"reset_before_response": True, "count": 1},
    {"close_before_response": True, "count": 1},
)


@dataclass(frozen=True, slots=True)
class Shape:
    """``until_full``: end as soon as each key was refused. ``scale``: of the limits. ``speed``: of the engines."""

    seconds: float = 60.0
    until_full: bool = False
    keys: int = KEYS
    scale: float = 1.0
    speed: float = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """``free``: the account of the key without limits. ``counted``: tokens of the day by name, as the gateway has them."""

    accounts: Sequence[Account]
    free: Account
    counted: dict[str, int]
    running_after: int
    retried: int
    seconds: float

    def rows(self) -> Iterator[Row]:
        """The figures that must hold."""
        beyond = max(account.beyond(self.counted[account.name]) for account in self.accounts)
        unused = max(account.unused(self.counted[account.name]) for account in self.accounts)
        # Requests a minute and at once are exact; tokens may exceed their limit by the last request.
        yield Row("a key over one of its limits, in requests", max(0.0, beyond), 1)
        yield Row("a key under its limit, %", 100 * unused, _UNUSED_PERCENT)
        yield Row("requests a minute or at once over a limit", max(map(_over_exactly, self.accounts)), 0)
        yield Row("keys whose tokens are others than their callers saw", len(self.miscounted()), 0)
        yield Row("requests of the key without limits that failed", self.free.others.total(), 0)
        yield Row("refusals of the key without limits", self.free.refusals.total(), 0)
        yield Row("requests that are still counted as under way", self.running_after, 0)

    def miscounted(self) -> list[str]:
        found = []
        for account in (*self.accounts, self.free):
            least = sum(each.least for each in account.served)
            most = sum(each.most for each in account.served)
            if not least <= self.counted[account.name] <= most:
                found.append(f"{account.name}: {self.counted[account.name]} and not {least} to {most}")
        return found


def _over_exactly(account: Account) -> float:
    exact = {
        limit: most
        for limit, most in account.limits.items()
        if limit in ("requests_per_minute", "concurrent_requests")
    }
    if not exact:
        return 0.0
    alone = Account(account.name, exact, account.served, most_running=account.most_running)
    return max(0.0, alone.beyond(0))


def limits(shape: Shape, seed: int) -> Outcome:
    rng = random.Random(seed)
    with ExitStack() as stack:
        speed = ("--speed", str(shape.speed))
        llms, embedders = ([_engine(stack, kind, *speed) for _ in range(2)] for kind in ("vllm", "tei"))
        keyed = accounts(rng, shape.keys, shape.scale)
        free = Account("free", {})
        config = {"api_keys": [account.entry for account in (*keyed, free)]}
        urls = [engine.url for engine in (*llms, *embedders)]
        gateway = stack.enter_context(running_gateway(*urls, config=config))
        return asyncio.run(_run(shape, rng, gateway, (*llms, *embedders), keyed, free))


def _engine(stack: ExitStack, kind: str, *options: str) -> SimulatedEngine:
    engine = SimulatedEngine(kind, options)
    stack.callback(engine.close)
    return engine


async def _run(
    shape: Shape,
    rng: random.Random,
    gateway: Gateway,
    troubled: Sequence[SimulatedEngine],
    keyed: list[Account],
    free: Account,
) -> Outcome:
    measured, used = await asyncio.to_thread(_prompt_tokens, gateway, free)
    # The engine that has the prompts in its cache gets the next ones too: it fails at least those.
    first = next(engine for engine in troubled if engine.url.endswith(used))
    await asyncio.to_thread(first.faults, [_TROUBLES[0]])
    crowd = Crowd(gateway.port, measured)
    crowd.began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        for account in keyed:
            for _ in range(account.callers):
                tasks.create_task(caller(crowd, account, random.Random(rng.random())))
        tasks.create_task(caller(crowd, free, random.Random(rng.random()), _FREE_REST_S))
        tasks.create_task(_trouble(crowd, random.Random(rng.random()), troubled))
        while crowd.now() < shape.seconds and not (shape.until_full and all(a.is_full for a in keyed)):
            await asyncio.sleep(_FULL_POLL_S)
        seconds = crowd.now()
        crowd.over.set()
    await asyncio.to_thread(_settle, gateway)
    return await asyncio.to_thread(_outcome, gateway, keyed, free, seconds)


async def _trouble(crowd: Crowd, rng: random.Random, engines: Sequence[SimulatedEngine]) -> None:
    """Have one engine after the other fail a request or two before it answers, so that the gateway asks another."""
    while not crowd.over.is_set():
        await crowd.pause(rng.uniform(*_TROUBLE_S))
        engine = rng.choice(engines)
        await asyncio.to_thread(engine.faults, [rng.choice(_TROUBLES)])
        await crowd.pause(rng.uniform(*_TROUBLE_S))
        await asyncio.to_thread(engine.heal)


def _prompt_tokens(gateway: Gateway, free: Account) -> tuple[dict[tuple[str, int], int], str]:
    """The tokens of each prompt, by model and number of words, as the engines report them, and the last LLM engine."""
    found: dict[tuple[str, int], int] = {}
    used = ""
    with gateway.client(headers={"authorization": f"Bearer {free.secret}"}) as client:
        for words in WORDS:
            for model, tokens in ((LLM, 1), (EMBEDDER, 0)):
                ask = Ask(words, 0, tokens)
                path, body = body_of(ask)
                answer = client.post(path, json=body).raise_for_status()
                used = answer.headers["x-sage-instance"] if tokens else used
                usage = answer.json()["usage"]
                found[model, words] = usage["prompt_tokens"]
                free.note(ask, Served(0.0, 0.0, usage["total_tokens"], usage["total_tokens"]))
    return found, used


def _settle(gateway: Gateway) -> None:
    """Wait until the gateway has noticed that all callers are gone."""
    end = time.monotonic() + _SETTLE_S
    while in_flight(gateway.status()) and time.monotonic() < end:
        time.sleep(_FULL_POLL_S)


def _outcome(gateway: Gateway, keyed: list[Account], free: Account, seconds: float) -> Outcome:
    with gateway.client(headers=gateway.admin) as client:
        keys = client.get("/admin/keys").raise_for_status().json()["keys"]
        caller_key = {"authorization": f"Bearer {free.secret}"}
        page = client.get("/metrics", headers=caller_key).raise_for_status().text
    counted = {key["name"]: key["tokens_today"] for key in keys}
    running = sum(key["running"] or 0 for key in keys)
    retried = sum(
        float(line.split()[-1]) for line in page.splitlines() if line.startswith("sage_retries_total")
    )
    return Outcome(keyed, free, counted, running, round(retried), seconds)
