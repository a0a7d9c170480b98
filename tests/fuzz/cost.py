"""The cost of requests: whatever a caller sends, what it takes of the event loop is bounded by its bytes.

An input is a recipe: a route, how its body is framed, how it arrives, and a body made of a unit that is repeated.
Recipes with the highest cost so far, by what they do, are kept and changed further.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec

from sage_inference.requests.routes import ROUTES
from sage_inference.wire.content_coding import FREE, MOST_RATIO
from tests.fuzz.codings import CODINGS
from tests.fuzz.house import Broken, House
from tests.fuzz.wires import MOST_READ, FakeTransport, FuzzLoop

MB = 1_000_000
FIXED_S, PER_MB_S = 0.005, 0.020
# Of other threads: a megabyte may be made so that nothing comes out, and take 300 ms.
ASIDE_PER_MB_S, ASIDE_PER_PLAIN_MB_S = 0.5, 0.015
ASIDE_PER_REQUEST_S = 0.006  # 16 KiB of such bytes, wrapped in another coding
PER_REQUEST_S = 0.0006  # of those that are answered: small ones are pipelined by the thousand
PER_TEXT_S = 0.000004  # that may be merged with others
PER_DOCUMENT_S = 0.000008  # that is ranked with 31 others by a call of its own to the engine
MOST_TEXTS, MOST_DOCUMENTS = 16384, 10_000
PER_CHUNK_S = 0.000001  # of a body
LONGEST_S = 0.100  # of one callback
MEMORY_PER_BYTE, FIXED_MEMORY = 16, 64 * MB
UNFOLDS = 3
_AGAIN = 4  # measurements of what looks too dear: noise doesn't repeat
_KEPT = 8  # recipes of each kind
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_EMBEDS = re.compile(rb"POST (/v1/embed|/embed|/[ ?])")
_RANKS = re.compile(rb"POST (/v1|/v2)?/rerank[ ?]")
_GOOD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

PATHS = (
    *ROUTES,
    "/health/live",
    "/v1/models/m",
    "/",
    "/admin/status",
    "/x",
    "/x/v1//Chat/Completions/",
    "/v1/models/",
)
FRAMINGS = ("length", "chunks", "tiny chunks", "none")
UNITS = (
    b"[],", b"{},", b"[", b"{", b'{"":', b'"",', b"1,", b"[1],", b"12345,", b"1e9,", b"1.5,", b"1", b" ", b"\n", b"a",
    b'"a":1,', b'"\\u0061":1,', b'"model":"m",', b'"messages":[],', b"\\n", b'\\"', b"\\\\", b"\\u0041", b"\\ud800",
    b"\\ud83d\\ude00", b"\\", b"NaN,", b"-Infinity,", b"true,", b"null,", b"\xc3\xa9", b"\xff", b"\xf0\x9f\x98\x80", b"{}\n",
    b'{"model":"m"},', b'{"role":"user","content":"hi"},', b";base64,", b"/9j/4AAQ", b":", b",", b'"', b"x: y\r\n",
    b"--x\r\n", b"\r\n--", b"--x\r\na: b\r\n\r\nx\r\n", b'content-disposition: form-data; name="model"\r\n', b"\r\n\r\n",
    b"\r\n", b'name="model"', b"%41", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b'"texts' * 3 + b'",',
    b'[[1,2,3],"a"],', b"[" * 400 + b"]" * 400 + b",", b'"' + b"a" * 126 + b'",', b"[" + b"1," * 62 + b"1],",
    b'{"text":"a"},', b'{"text":"\\u0041"},', b'{"a":1,"text":"a","b":"c"},', b'{"text":"' + b"a" * 126 + b'"},', b'{"x":{"text":"a"}},',
)  # fmt: skip
WRAPS = (
    (b"", b""), (b'{"model":"m","messages":[],"x":[', b"1]}"), (b'{"model":"m","messages":[', b"1]}"),
    (b'{"model":"m","messages":["', b'"]}'), (b'{"model":"m","input":[', b"1]}"), (b'{"model":"m","input":[', b'"a"]}'),
    (b'{"model":"m","input":["', b'"]}'), (b'{"inputs":[', b"[1]]}"), (b'{"model":"m","prompt":[', b"1]}"),
    (b'{"model":"m","prompt":"', b'"}'), (b'{"messages":[],"model":"', b'"}'), (b'{"messages":[],"user":"', b'"}'),
    (b"{", b'"model":"m","messages":1,"input":1,"query":1}'), (b'{"query":"q","documents":[', b'"a"]}'),
    (b'{"messages":["\\ud800a"],"x":[', b"1]}"), (b'{"messages":[],"n":[', b"1]}"), (b'{"messages":[],"max_tokens":', b"}"),
    (b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\n', b"\r\n--x--"), (b"--x\r\n", b"\r\n--x--"),
    (b'{"model":"other","messages":[],"x":[', b'1]}'), (b'{"input":"', b'","messages":"","prompt":"","query":""}'),
    (b'{"query":"q","return_documents":true,"documents":["', b'"]}'), (b'{"query":"q","documents":[{"text":"', b'"}]}'),
    (b'{"query":"q","rank_fields":["text","a"],"documents":[{"text":"a"},', b'"a"]}'), (b'{"query":"q","documents":{', b'"a":1}}'),
    (b'{"query":{"text":"', b'"},"documents":["a"]}'), (b'{"query":"q","top_n":', b',"documents":["a"]}'),
    (b'{"inputs":{"source_sentence":"a","sentences":[', b'"a"]}}'), (b'{"inputs":[["a","b"],', b'["a"]]}'),
)  # fmt: skip
HEADS = (
    b"", b"x-a: b\r\n", b"x-request-id: ", b"authorization: Bearer ", b"cookie: ", b"connection: ", b"origin: http://",
    b"x-sage-priority: ", b"x-sage-deadline-ms: 1", b"x-sage-session: ", b"accept: a,", b"via: ", b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n", b"content-type: multipart/form-data; boundary=",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """``unit`` and ``other`` are repeated in turn between the parts of a wrap, up to ``size`` bytes.

    ``head`` is a header, or the begin of one whose value has ``head_size`` bytes. The whole is sent ``times``.
    With a ``coding`` the body is ``UNFOLDS`` times as long before it is compressed.
    """

    path: str
    framing: str = "length"
    unit: bytes = b"a"
    other: bytes = b""
    wrap: int = 1
    size: int = 100_000
    head: int = 0
    head_size: int = 0
    query: int = 0
    times: int = 1
    ends: bool = True
    coding: str = ""

    @property
    def kind(self) -> str:
        return f"{self.path} {self.framing} {self.coding} {'pipelined' if self.times > 1 else ''}"

    @property
    def unfolds_to(self) -> int:
        """The bytes of all bodies, decompressed; 0 where they came so."""
        return len(self._plain()) * self.times if self.coding else 0

    def _plain(self) -> bytes:
        begin, end = WRAPS[self.wrap]
        unit = self.unit + self.other
        size = self.size * UNFOLDS if self.coding else self.size
        return begin + unit * (size // len(unit)) + (end if self.ends else b"")

    def data(self) -> bytes:
        return _data(self)

    def made(self) -> bytes:
        header, encode = CODINGS[self.coding]
        body = encode(self._plain())
        method = b"POST"
        if self.path not in ROUTES or ROUTES[self.path].method != "POST":
            method, body = (b"GET", b"") if self.framing == "none" else (b"POST", body)
        target = self.path.encode() + (b"?" + b"%41" * (self.query // 3) if self.query else b"")
        lines = [
            b"%b %b HTTP/1.1\r\nHost: localhost\r\n" % (method, target),
            _header(HEADS[self.head], self.head_size),
            b"content-encoding: %b\r\n" % header.encode() if header else b"",
        ]
        if self.framing == "length":
            return (b"".join(lines) + b"content-length: %d\r\n\r\n" % len(body) + body) * self.times
        if self.framing == "none":
            return (b"".join(lines) + b"\r\n") * self.times
        step = 4096 if self.framing == "chunks" else 1 + self.size % 3
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(piece), piece)
            for piece in (body[at : at + step] for at in range(0, len(body), step))
        )
        return (b"".join(lines) + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") * self.times


@lru_cache(1)  # compressing takes much longer than the request
def _data(recipe: Recipe) -> bytes:
    return recipe.made()


def _header(line: bytes, size: int) -> bytes:
    if not line or line.endswith(b"\r\n"):
        return line * (1 + min(size // 16, 90))
    return line + b"a" * size + b"\r\n"


@dataclass(frozen=True, slots=True)
class Cost:
    """``loop_s`` of CPU time in all, ``longest_s`` in one callback, ``aside_s`` in other threads, and the peak of memory
    that it added. ``plain`` is the size of what came compressed.
    """

    loop_s: float
    longest_s: float
    aside_s: float
    memory: int
    answers: int
    texts: int
    documents: int
    chunks: int
    plain: int = 0

    def over(self, size: int) -> float:
        """How many times the bound; above 1 is too much."""
        plain = min(self.plain, max(FREE, MOST_RATIO * size))  # beyond, it is refused
        bound = FIXED_S + PER_MB_S * (size + plain) / MB
        bound += PER_REQUEST_S * self.answers + PER_TEXT_S * self.texts
        bound += PER_CHUNK_S * self.chunks + PER_DOCUMENT_S * self.documents
        aside = (
            FIXED_S
            + ASIDE_PER_REQUEST_S * self.answers
            + ASIDE_PER_MB_S * size / MB
            + ASIDE_PER_PLAIN_MB_S * plain / MB
        )
        memory = FIXED_MEMORY + MEMORY_PER_BYTE * size + plain
        return max(
            self.loop_s / bound, self.longest_s / LONGEST_S, self.aside_s / aside, self.memory / memory
        )


class PlainEngine:
    """The engine's side of one connection; unlike the house's own it costs next to nothing.

    It keeps nothing but what it is to rank.
    """

    def __init__(self, loop: FuzzLoop, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self._missing = 0
        self._ranks: list[bytes] = []
        self.transport = FakeTransport(loop, protocol, self._wrote, copies=False)

    def _wrote(self, data: bytes) -> None:
        if self._missing <= 0:
            head = _LENGTH.search(data)
            assert head is not None, data[:200]
            self._missing = int(head[1]) + data.index(b"\r\n\r\n", head.end() - 4) + 4
            self._ranks = [data] if data.startswith(b"POST /rerank") else []
        elif self._ranks:
            self._ranks.append(data)
        self._missing -= len(data)
        if self._missing <= 0:
            self._loop.call_soon(
                self.transport.feed, _ranked(b"".join(self._ranks)) if self._ranks else _GOOD
            )


class _Texts(msgspec.Struct):
    texts: list[msgspec.Raw] = []


def _ranked(request: bytes) -> bytes:
    texts = msgspec.json.decode(request.partition(b"\r\n\r\n")[2], type=_Texts).texts
    ranks = [{"index": at, "score": 1 / (1 + at)} for at in range(len(texts))]
    body = msgspec.json.encode(ranks)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


class Meter:
    """Runs inputs in a house whose engine answers everything, and times each callback of its loop."""

    def __init__(self) -> None:
        self.house = house = House(reranks=True)
        house.loop.take_over(lambda protocol: PlainEngine(house.loop, protocol).transport)
        self.took: list[float] = []
        self._time_callbacks()

    def close(self) -> None:
        asyncio.events.Handle._run = self._run  # type: ignore[method-assign]
        self.house.close()

    def _time_callbacks(self) -> None:
        took, run = self.took, asyncio.events.Handle._run
        self._run = run

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            took.append(time.thread_time() - began)

        asyncio.events.Handle._run = timed  # type: ignore[method-assign, assignment]

    def measure(self, recipe: Recipe) -> Cost:
        data = recipe.data()
        gc.collect()
        gc.disable()
        try:
            return self.house.loop.run_until_complete(self._measured(data, recipe.unfolds_to))
        finally:
            gc.enable()

    async def _measured(self, data: bytes, plain: int) -> Cost:
        house = self.house
        house.begin(lambda _, __: None)
        caller = house.call()
        pieces = [data[at : at + MOST_READ] for at in range(0, len(data), MOST_READ)]
        await asyncio.sleep(0)
        self.took.clear()
        aside = time.process_time() - time.thread_time()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for piece in pieces:
            # Each in a callback of its own, as from a socket.
            house.loop.call_soon(caller.transport.feed, piece)
            await asyncio.sleep(0)
            if caller.transport.lost:
                break
        for _ in range(100):
            answers = len(caller.transport.sent)
            house.loop.crashes.clear()
            await house.loop.settle()
            if len(caller.transport.sent) == answers:
                break
        house.loop.crashes.clear()
        took = list(self.took)
        aside = time.process_time() - time.thread_time() - aside
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        commas = max(data.count(b","), plain // 3)
        texts = min(MOST_TEXTS, commas) if _EMBEDS.match(data) else 0
        documents = min(MOST_DOCUMENTS, commas) if _RANKS.match(data) else 0
        chunks = data.count(b"\r\n") // 2 if b"transfer-encoding: chunked" in data else 0
        cost = Cost(
            sum(took),
            max(took, default=0.0),
            aside if plain else 0.0,
            memory,
            caller.transport.sent.count(b"HTTP/1.1 "),
            texts,
            documents,
            chunks,
            plain,
        )
        caller.transport.end()
        await house.loop.settle()
        house.loop.crashes.clear()
        return cost


def check(meter: Meter, recipe: Recipe, allowance: float = 1.0) -> float:
    """How many times the bound the recipe costs, at the best of some runs. Raises ``Broken`` above ``allowance``."""
    size = len(recipe.data())
    least, cost = float("inf"), None
    for _ in range(_AGAIN):
        cost = meter.measure(recipe)
        least = min(least, cost.over(size))
        if least < 0.9 * allowance:
            return least
    if least > allowance:
        raise Broken(f"{least:.1f} times the bound for {size} bytes: {cost}")
    return least


def is_dear(recipe: Recipe) -> bool:
    """Whether it is over the bound, measured by a meter of its own."""
    meter = Meter()
    try:
        check(meter, recipe)
    except Broken:
        return True
    finally:
        meter.close()
    return False


def changed(recipe: Recipe, draw: random.Random, most: int) -> Recipe:
    """The recipe with one to three things changed."""
    for _ in range(draw.randint(1, 3)):
        change: dict[str, Any] = draw.choice(
            (
                {"path": draw.choice(PATHS)},
                {"framing": draw.choice(FRAMINGS)},
                {"unit": draw.choice(UNITS)},
                {"unit": bytes(draw.choices(b'[]{}",:\\u0d8aeN \n\r-1', k=draw.randint(1, 8)))},
                {"other": draw.choice((b"", *UNITS))},
                {"wrap": draw.randrange(len(WRAPS))},
                {"size": int(10 ** draw.uniform(1, 6)) % most + 10},
                {"size": min(most, recipe.size * 4)},
                {"head": draw.randrange(len(HEADS)), "head_size": int(10 ** draw.uniform(0, 4.8))},
                {"query": draw.choice((0, 30, 3000, 60_000))},
                {"times": draw.choice((1, 1, 2, 50, 1000))},
                {"ends": draw.random() < 0.7},
                {"coding": draw.choice((*CODINGS, "", ""))},
            )
        )
        recipe = replace(recipe, **change)
    if recipe.times > 1:  # all of it together is to stay below ``most``
        fixed = 200 + recipe.query + recipe.head_size
        recipe = replace(recipe, times=max(1, min(recipe.times, most // fixed)))
        recipe = replace(recipe, size=max(10, min(recipe.size, most // recipe.times - fixed)))
    return recipe


def search(
    seconds: float, seed: int = 1, most: int = 4 * MB, *, report: bool = False, allowance: float = 1.0
) -> Iterator[tuple[str, Recipe]]:
    """Look for recipes above the bound; yields what is wrong with each kind once."""
    draw = random.Random(seed)
    meter = Meter()
    best: dict[str, list[tuple[float, Recipe]]] = {}
    found: set[str] = set()
    began = told = time.monotonic()
    count, worst = 0, 0.0
    try:
        while time.monotonic() - began < seconds:
            if best and draw.random() < 0.8:
                parent = draw.choice(best[draw.choice(list(best))])[1]
            else:
                parent = Recipe(draw.choice(PATHS), unit=draw.choice(UNITS), wrap=draw.randrange(len(WRAPS)))
            recipe = changed(parent, draw, most)
            count += 1
            try:
                cost = check(meter, recipe, allowance)
            except Broken as broken:
                meter.close()
                meter = Meter()
                if recipe.kind not in found:
                    found.add(recipe.kind)
                    yield str(broken), recipe
                continue
            worst = max(worst, cost)
            kept = best.setdefault(recipe.kind, [])
            kept.append((cost, recipe))
            kept.sort(key=lambda pair: -pair[0])
            del kept[_KEPT:]
            if report and time.monotonic() - told > 60:
                told = time.monotonic()
                print(
                    f"{count} inputs, {len(best)} kinds, the dearest takes {worst:.2f} of its bound",
                    flush=True,
                )
    finally:
        meter.close()
    if report:
        print(f"{count} inputs of {len(best)} kinds; the dearest takes {worst:.2f} of its bound")


def written(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), default=lambda unit: unit.decode("latin-1"))
