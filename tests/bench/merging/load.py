"""Callers of embeddings at protocol level: closed loops, and an open loop by the clock."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import httptools
import uvloop

WORDS = "the of gateway merges many texts into few calls and every vector goes back to its own caller".split()  # noqa: SIM905
READY = 4096  # requests, made before the clock runs

Words = Callable[[random.Random], int]  # how many a text has
Kinds = dict[str, tuple[float, int, int]]  # by name its share of arrivals, and texts and words a text


class Connection(asyncio.Protocol):
    """One keep-alive connection; ``done`` is called at the end of each answer, with its status."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.done: Callable[[int], None] = lambda status: None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self.done(status)


@dataclass
class Measured:
    """Latencies in seconds, from when a request was due to the end of its answer."""

    texts: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds

    def ms(self, q: float, kind: str = "all") -> float:
        """The percentile ``q`` in milliseconds (nearest rank)."""
        ordered = sorted(self.latencies[kind])
        return 1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def request(url: str, model: str, texts: list[str]) -> bytes:
    body = json.dumps({"model": model, "input": texts, "encoding_format": "base64"}).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def text(rng: random.Random, words: int, *, numbered: bool = True) -> str:
    """Each one different, so that none is shared: by a number, or by its words where there are enough."""
    number = [f"{rng.getrandbits(48):x}"] if numbered else []
    return " ".join([*number, *rng.choices(WORDS, k=words)])


def twelve(_: random.Random) -> int:
    return 12


def closed(
    url: str,
    model: str,
    *,
    callers: int,
    seconds: float,
    texts: int = 1,
    words: Words = twelve,
    numbered: bool = True,
    seed: int = 1,
) -> Measured:
    """Each caller asks for so many texts, and for the next ones as soon as it has their vectors."""
    rng = random.Random(seed)
    ready = [
        request(url, model, [text(rng, words(rng), numbered=numbered) for _ in range(texts)])
        for _ in range(READY // texts)
    ]
    return uvloop.run(_closed(url, ready, callers, texts, seconds))


def opened(
    url: str,
    model: str,
    *,
    per_s: float,
    seconds: float,
    kinds: Kinds,
    most_texts: int = 0,
    seed: int = 1,
) -> Measured:
    """Poisson arrivals. ``most_texts``: what has more is sent as several requests at once (0: never)."""
    return uvloop.run(_opened(url, model, per_s, seconds, kinds, most_texts, seed))


async def connect(url: str) -> Connection:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, address.hostname, address.port)
    return connection


async def _closed(url: str, ready: list[bytes], callers: int, texts: int, seconds: float) -> Measured:
    measured = Measured(latencies={"all": []})
    bodies = itertools.cycle(ready)  # in turn: no two callers ask for the same at a time
    loop = asyncio.get_running_loop()
    warm_until = loop.time() + min(0.5, seconds / 4)
    end = warm_until + seconds
    running = [loop.create_future() for _ in range(callers)]

    def begin(connection: Connection, finished: asyncio.Future[None]) -> None:
        began = 0.0

        def send() -> None:
            nonlocal began
            began = time.perf_counter()
            connection.transport.write(next(bodies))

        def done(status: int) -> None:
            now = loop.time()
            if warm_until <= now < end:
                measured.latencies["all"].append(time.perf_counter() - began)
                measured.texts += texts * (status == 200)
                measured.failed += status != 200
            if now >= end:
                finished.set_result(None)
                connection.transport.close()
            else:
                send()

        connection.done = done
        send()

    for finished in running:
        begin(await connect(url), finished)
    await asyncio.wait_for(asyncio.gather(*running), seconds + 30)
    measured.seconds = seconds
    return measured


async def _opened(
    url: str, model: str, per_s: float, seconds: float, kinds: Kinds, most_texts: int, seed: int
) -> Measured:
    rng = random.Random(seed)
    measured = Measured(latencies={name: [] for name in kinds})
    loop = asyncio.get_running_loop()
    arrivals = []
    at = 0.0
    while (at := at + rng.expovariate(per_s)) < seconds:
        name = rng.choices(list(kinds), [share for share, _, _ in kinds.values()])[0]
        _, count, words = kinds[name]
        texts = [text(rng, words) for _ in range(count)]
        step = most_texts or count
        parts = [request(url, model, texts[i : i + step]) for i in range(0, count, step)]
        arrivals.append((at, name, parts))
    idle: deque[Connection] = deque([await connect(url) for _ in range(512)])
    ended = [loop.create_future() for _ in arrivals]
    began = loop.time() + 0.05

    def send(number: int) -> None:
        due, name, parts = arrivals[number]
        left = len(parts)
        good = True

        def done(connection: Connection, status: int) -> None:
            nonlocal left, good
            left -= 1
            good = good and status == 200
            idle.append(connection)
            if not left:
                measured.latencies[name].append(loop.time() - began - due)
                measured.texts += kinds[name][1] * good
                measured.failed += not good
                ended[number].set_result(None)

        for data in parts:
            connection = idle.popleft()
            connection.done = partial(done, connection)
            connection.transport.write(data)

    for number, (due, _, parts) in enumerate(arrivals):
        if (wait := began + due - loop.time()) > 0:
            await asyncio.sleep(wait)
        while idle and idle[0].transport.is_closing():  # idle for longer than the server keeps it
            idle.popleft()
        while len(idle) < len(parts):
            idle.append(await connect(url))
        send(number)
    await asyncio.wait_for(asyncio.gather(*ended), 120)
    measured.seconds = loop.time() - began
    for connection in idle:
        connection.transport.close()
    return measured


def beside_bulk(
    url: str,
    model: str,
    *,
    callers: int,
    texts: int,
    words: int,
    per_s: float,
    seconds: float,
    seed: int = 1,
) -> tuple[Measured, Measured]:
    """Requests of one short text by the clock, beside bulk callers in closed loops: both, measured at the same time."""
    rng = random.Random(seed)
    ready = [request(url, model, [text(rng, words) for _ in range(texts)]) for _ in range(READY // texts)]
    kinds: Kinds = {"interactive": (1.0, 1, 12)}

    async def both() -> tuple[Measured, Measured]:
        bulk = asyncio.create_task(_closed(url, ready, callers, texts, seconds))
        await asyncio.sleep(min(0.5, seconds / 4))
        interactive = await _opened(url, model, per_s, seconds, kinds, 0, seed)
        return await bulk, interactive

    return uvloop.run(both())
