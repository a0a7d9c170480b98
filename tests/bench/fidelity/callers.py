"""Callers of embeddings of every sort, some of whom leave; what the others were given is kept."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx

from sage_inference.simulator import tokens
from tests.bench.fidelity.tap import Tap
from tests.bench.fidelity.wire import NATIVE, OPENAI

_WORDS = (
    "the of gateway merges many texts into few calls and every vector goes back to its own caller "
    'café naïve "quoted" back\\slash tab\tline\nend Ünïcödé 漢字 emoji🙂 <tag> a,b {"json":[1]}'
).split(" ")
_SIZES = (1, 1, 1, 2, 3, 5, 8, 13, 21, 32, 33, 48, 64)
_LEAVE = 0.15  # of all requests, beside those that stay
_KNOWN_TO_ALL = 0.08  # of the texts: several callers may ask for such a one at a time
_POOL = 100
_AS_IDS = 0.15  # of the requests


class Leaving(StrEnum):
    NEVER = "never"
    AT_CALLS = "when some more engine calls have begun"
    IN_ANSWER = "when the answer has begun"


@dataclass(frozen=True, slots=True)
class Variant:
    """What a caller may ask for beside its texts."""

    path: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sort:
    """What can be asked of an engine; ``ids`` makes token ids of a text, where it takes them."""

    variants: Sequence[Variant]
    words: int
    ids: Callable[[random.Random, str], list[int]] | None


def spelled(_: random.Random, text: str) -> list[int]:
    """As simulated engines have them."""
    return tokens.ids(tokens.pieces(text))


def drawn(rng: random.Random, text: str) -> list[int]:
    """Of a BERT vocabulary's words."""
    return [rng.randrange(2000, 29000) for _ in range(2 + len(text.split()))]


_FORMS = tuple(
    Variant(OPENAI, fields) for fields in ({}, *({"encoding_format": f} for f in ("float", "base64")))
)
TEI = Sort(
    (*_FORMS, Variant(OPENAI, {"dimensions": 64}), Variant(NATIVE), Variant(NATIVE, {"normalize": False})),
    120,
    spelled,
)
_CUT = Variant(OPENAI, {"truncate_prompt_tokens": 16, "encoding_format": "base64"})
VLLM = Sort((*_FORMS, _CUT), 60, spelled)
REAL_VLLM = Sort((*_FORMS, _CUT), 60, drawn)
INFINITY = Sort((*_FORMS, Variant(OPENAI, {"dimensions": 64})), 60, None)


@dataclass(frozen=True, slots=True)
class Ask:
    path: str
    body: bytes
    texts: int
    leaving: Leaving
    calls: int  # of engines, after which it leaves, if that is when


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller asked for and has."""

    path: str
    body: bytes
    answer: bytes


@dataclass
class Seen:
    given: list[Given] = field(default_factory=list)
    left: int = 0
    failed: list[str] = field(default_factory=list)


def plan(sort: Sort, model: str, *, texts: int, seed: int) -> Iterator[Ask]:
    """Requests that ask for ``texts`` in all; more such ones whose callers leave are among them."""
    rng = random.Random(seed)
    pool = [_text(rng, sort.words) for _ in range(_POOL)]
    while texts:
        leaving = Leaving.NEVER
        if rng.random() < _LEAVE:
            leaving = rng.choice((Leaving.AT_CALLS, Leaving.IN_ANSWER))
        count = min(texts, rng.choice(_SIZES))
        texts -= count if leaving is Leaving.NEVER else 0
        ids = sort.ids if rng.random() < _AS_IDS else None
        known = 0.0 if ids else _KNOWN_TO_ALL
        asked = [rng.choice(pool) if rng.random() < known else _text(rng, sort.words) for _ in range(count)]
        items: list[Any] = [ids(rng, one) for one in asked] if ids else list(asked)
        given = items[0] if count == 1 and rng.random() < 0.5 else items
        variant = rng.choice(sort.variants)
        name = {"inputs": given} if variant.path == NATIVE else {"model": model, "input": given}
        escaped = rng.random() < 0.5
        body = json.dumps({**name, **variant.fields}, ensure_ascii=escaped).encode()
        yield Ask(variant.path, body, count, leaving, rng.randrange(1, 6))


async def everyone(url: str, tap: Tap, asks: Sequence[Ask], callers: int) -> Seen:
    """Each caller asks one thing after the other, all callers at once."""
    seen = Seen()
    limits = httpx.Limits(max_connections=callers)
    json_type = {"content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=300, limits=limits, headers=json_type
    ) as client:
        await asyncio.gather(*(_caller(client, tap, asks[n::callers], seen) for n in range(callers)))
    return seen


async def _caller(client: httpx.AsyncClient, tap: Tap, asks: Sequence[Ask], seen: Seen) -> None:
    for ask in asks:
        if ask.leaving is Leaving.IN_ANSWER:
            async with client.stream("POST", ask.path, content=ask.body):
                seen.left += 1
            continue
        request = asyncio.ensure_future(client.post(ask.path, content=ask.body))
        if ask.leaving is Leaving.AT_CALLS:
            calls = asyncio.ensure_future(tap.more_calls(ask.calls))
            await asyncio.wait((request, calls), return_when=asyncio.FIRST_COMPLETED)
            calls.cancel()
            if request.cancel():
                await asyncio.wait([request])
                seen.left += 1
                continue
        answer = await request
        if answer.status_code == 200:
            seen.given.append(Given(ask.path, ask.body, answer.content))
        else:
            seen.failed.append(f"{answer.status_code} {answer.text[:200]}")


def _text(rng: random.Random, words: int) -> str:
    """No two begin alike, so none is another's beginning."""
    count = rng.randrange(1 + min(words, 12)) if rng.random() < 0.8 else rng.randrange(words)
    return " ".join([f"{rng.getrandbits(48):x}", *rng.choices(_WORDS, k=count)])
