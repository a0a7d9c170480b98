"""What the Python clients cost: over raw httpx, at import, and for a long list of texts."""

from __future__ import annotations

import argparse
import asyncio
import base64
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial

import httpx

from sage_inference import UnifiedInferenceClient
from tests.support.gateway import running_gateway
from tests.support.simulators import simulated_engine

HELP = "Python clients against raw httpx: a chat, 10,000 embeddings, import times."
ROUNDS = 5
# What a careful author would try: texts in a request, requests at once.
BY_HAND = ((32, 8), (32, 16), (128, 4), (128, 16), (256, 8), (512, 4), (512, 8), (1024, 4), (10_000, 1))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=1000, help="chats a side (default: 1000)")
    parser.add_argument("--texts", type=int, default=10_000, help="texts to embed (default: 10000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default: {ROUNDS})")


def run(arguments: argparse.Namespace) -> int:
    for line in imports(arguments.rounds):
        print(line)
    print(chats(arguments.calls))
    for line in embeddings(arguments.texts, arguments.rounds):
        print(line)
    return 0


def imports(rounds: int) -> list[str]:
    """Milliseconds beyond a bare interpreter, the least of several starts: the rest is other programs."""
    wanted = ("import sage_inference", "from sage_inference import UnifiedInferenceClient", "import httpx")
    least = dict.fromkeys(("pass", *wanted), 9000000000.0)
    for _ in range(3 * rounds):
        for code in least:
            since = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            least[code] = min(least[code], time.perf_counter() - since)
    return [f"{code}: {(least[code] - least['pass']) * 1000:.1f} ms" for code in wanted]


def chats(calls: int) -> str:
    with simulated_engine("vllm", "--speed", "instant") as engine, httpx.Client(trust_env=False) as http:
        client = UnifiedInferenceClient(engine.url)
        local = UnifiedInferenceClient.create_with_control_plane([engine.url])
        messages = [{"role": "user", "content": "hello"}]

        def raw() -> None:
            answer = http.post(
                f"{engine.url}/v1/chat/completions", json={"messages": messages, "max_tokens": 4}
            )
            _ = answer.json()["choices"][0]["message"]["content"]

        def ours() -> None:
            client.chat(messages, max_tokens=4)

        def scheduled() -> None:
            local.chat(messages, max_tokens=4)

        took = _interleaved((raw, ours, scheduled), calls)
        client.close()
        local.close()
    low, high, plane = (statistics.median(times) * 1e6 for times in took)
    return (
        f"chat, p50 of {calls}: raw httpx {low:.0f} µs, client {high:.0f} µs, overhead {high - low:.0f} µs; "
        f"control-plane mode {plane:.0f} µs"
    )


def _interleaved(calls: Sequence[Callable[[], None]], rounds: int) -> list[list[float]]:
    took: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 50):
        for call, times in zip(calls, took, strict=True):
            since = time.perf_counter()
            call()
            if number >= 50:
                times.append(time.perf_counter() - since)
    return took


def embeddings(count: int, rounds: int) -> list[str]:
    """Seconds for all texts through one gateway, and CPU seconds of this process, by each way in turn.

    The least of all rounds counts: the rest is other programs. The best way by hand is found by the same runs,
    so that luck is on its side; like the client it keeps its connections, and loads no certificates.
    """
    texts = [f"text number {number} of many" for number in range(count)]
    with (
        simulated_engine("tei", "--speed", "instant") as engine,
        running_gateway(engine.url) as gateway,
        UnifiedInferenceClient(gateway.url) as client,
        asyncio.Runner() as runner,
    ):
        http = httpx.AsyncClient(base_url=gateway.url, trust_env=False, verify=False, timeout=60)
        ways: dict[str, Callable[[], object]] = {"client": lambda: client.embed(texts)}
        for size, at_once in BY_HAND:
            ways[f"httpx by hand, {at_once} × {size}"] = partial(
                lambda *how: runner.run(_by_hand(http, texts, *how)), size, at_once
            )
        wall: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                began, worked = time.perf_counter(), time.process_time()
                way()
                cpu[name].append(time.process_time() - worked)
                wall[name].append(time.perf_counter() - began)
        runner.run(http.aclose())
    lines = [
        f"embed {count} texts, {name}: {min(wall[name]):.3f} s, median {statistics.median(wall[name]):.3f} s; "
        f"CPU {min(cpu[name]):.3f} s"
        for name in ways
    ]
    return [
        *lines,
        f"client / best by hand: least {_ratio(wall, min):.2f}, CPU {_ratio(cpu, min):.2f}, "
        f"median {_ratio(wall, statistics.median):.2f}",
    ]


def _ratio(figures: dict[str, list[float]], of: Callable[[list[float]], float]) -> float:
    return of(figures["client"]) / min(of(some) for name, some in figures.items() if name != "client")


async def _by_hand(
    http: httpx.AsyncClient, texts: Sequence[str], size: int, at_once: int
) -> list[list[float]]:
    slots = asyncio.Semaphore(at_once)

    async def one(cut: Sequence[str]) -> list[list[float]]:
        body = {"input": cut, "encoding_format": "base64"}
        async with slots:
            answer = (await http.post("/v1/embeddings", json=body)).raise_for_status().json()
        return [array("f", base64.b64decode(e["embedding"])).tolist() for e in answer["data"]]

    cuts = [texts[at : at + size] for at in range(0, len(texts), size)]
    return [vector for some in await asyncio.gather(*map(one, cuts)) for vector in some]
