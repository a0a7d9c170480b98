"""A short search for requests that cost too much, and the dearest that are known."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.cost import MB, Meter, Recipe, check, search, written

# What these cost is a matter of the machine: three times the bound is a fault on any.
ALLOWANCE = 3.0
CHAT, EMBEDDINGS, SOUND = "/v1/chat/completions", "/v1/embeddings", "/v1/audio/transcriptions"
DEAREST = {
    "empty lists without an end": Recipe(CHAT, unit=b"[],", size=MB, ends=False),
    "half a pair behind lists": Recipe(CHAT, unit=b"[],", wrap=14, size=MB),
    "NaN": Recipe(CHAT, unit=b"NaN,", size=MB),
    "pairs that are no JSON": Recipe(CHAT, unit=b"\\ud83d\\ude00", wrap=8, size=MB),
    "fields": Recipe(CHAT, unit=b'"a":1,', wrap=12, size=MB),
    "models": Recipe(CHAT, unit=b'{"model":"m"},', wrap=19, size=MB),
    "token ids": Recipe(EMBEDDINGS, unit=b"1,", wrap=4, size=MB),
    "lists of token ids": Recipe(EMBEDDINGS, unit=b"[1],", wrap=7, size=MB),
    "many small texts": Recipe(EMBEDDINGS, unit=b'"",', wrap=5, size=40_000),
    "many small documents": Recipe("/v1/rerank", unit=b'"",', wrap=13, size=MB),
    "as many documents as may be": Recipe("/v1/rerank", unit=b'"abc",', wrap=13, size=59_000),
    "objects of little text": Recipe("/rerank", unit=b'{"text":"a"},', wrap=13, size=MB),
    "fields of documents": Recipe("/v1/rerank", unit=b'{"a":1,"text":"a","b":"c"},', wrap=13, size=MB),
    "escapes in a document": Recipe("/v2/rerank", unit=b"\\u0041", wrap=21, size=MB),
    "escapes in an object's text": Recipe("/v1/rerank", unit=b"\\u00e9", wrap=22, size=MB),
    "escaped quotes in a document": Recipe("/v1/rerank", unit=b'\\"', wrap=21, size=MB),
    "fields to rank by": Recipe("/v1/rerank", unit=b'{"text":"a"},', wrap=23, size=130_000),
    "documents of one kilobyte": Recipe("/v1/rerank", unit=b'"' + b"a" * 998 + b'",', wrap=13, size=7 * MB),
    "one large document": Recipe("/v1/rerank", unit=b"hello ", wrap=21, size=7 * MB),
    "too large to divide": Recipe("/v1/rerank", unit=b"hello ", wrap=21, size=64 * MB),
    "lists at the root": Recipe("/", unit=b"[],", wrap=7, size=MB),
    "texts at the root": Recipe("/", unit=b'"",', wrap=7, size=40_000),
    "pairs at the root": Recipe("/", unit=b'["a","b"],', wrap=28, size=MB),
    "heads of parts": Recipe(SOUND, unit=b'content-disposition: form-data; name="model"\r\n', wrap=18, size=MB),
    "a chunk a byte": Recipe(CHAT, "tiny chunks", unit=b"a", wrap=9, size=60_000),
    "a long model's path": Recipe("/v1/models/m", "none", query=60_000),
    "a long header": Recipe(CHAT, head=4, head_size=60_000),
    "long heads, pipelined": Recipe("/x", "none", head=1, head_size=1440, times=200),
    "pipelined": Recipe("/health/live", "none", times=500),
    "pipelined and refused": Recipe(CHAT, unit=b"a", wrap=0, size=10, times=500),
    "pipelined upgrades": Recipe("/health/live", "none", head=13, times=300),
    "a large body": Recipe(CHAT, unit=b"hello ", wrap=3, size=64 * MB),
    "a bomb": Recipe(CHAT, unit=b"a", size=8 * MB, coding="gzip"),
    "a bomb in chunks": Recipe(CHAT, "tiny chunks", unit=b"a", size=8 * MB, coding="gzip in gzip"),
    "a bomb of lists": Recipe(CHAT, unit=b"[],", size=MB, coding="gzip", ends=False),
    "bombs, pipelined": Recipe(EMBEDDINGS, unit=b"1,", wrap=4, size=100_000, coding="deflate", times=50),
    "blocks without a byte": Recipe(CHAT, unit=b"a", size=MB // 8, coding="empty blocks"),
    "blocks without a byte, within gzip": Recipe(CHAT, unit=b"a", size=MB // 4, coding="empty blocks in gzip"),
    "members without a byte": Recipe(CHAT, unit=b"a", size=MB // 8, coding="empty members"),
    "tiny members": Recipe(CHAT, unit=b"hello ", wrap=3, size=MB // 8, coding="members"),
    "a large text to embed": Recipe(EMBEDDINGS, unit=b"hello ", wrap=6, size=64 * MB),
}  # fmt: skip


@pytest.fixture(scope="module")
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.close()


@pytest.mark.parametrize("recipe", DEAREST.values(), ids=DEAREST.keys())
def test_the_dearest_that_are_known_stay_within_the_bound(meter: Meter, recipe: Recipe) -> None:
    check(meter, recipe, ALLOWANCE)


def test_a_short_search_finds_none_that_costs_too_much() -> None:
    found = [f"{what}: {written(recipe)}" for what, recipe in search(3, most=MB, allowance=ALLOWANCE)]
    assert not found
