"""What the bodies of embedding calls mean: which texts under which options, and which vectors."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from typing import Any

NATIVE, OPENAI = "/embed", "/v1/embeddings"
ROUTES = frozenset({NATIVE, OPENAI})

Item = str | tuple[int, ...]  # a text, or one as token ids
Options = tuple[tuple[str, Any], ...]
# They say how a vector is written, who asks, or what happens to a text that is too long, which none is here.
_SAME_VECTORS = frozenset({"model", "user", "encoding_format", "input", "inputs", "truncate"})


@dataclass(frozen=True, slots=True)
class Meaning:
    """A text and what else its vector depends on."""

    item: Item
    options: Options


@dataclass(frozen=True, slots=True)
class Call:
    """A request to an engine, and its answer."""

    engine: str
    path: str
    body: bytes
    status: int
    answer: bytes

    @property
    def answered(self) -> bool:
        return self.status == 200 and self.path in ROUTES


def meanings(path: str, body: bytes) -> list[Meaning]:
    document = json.loads(body)
    given = document["inputs" if path == NATIVE else "input"]
    options = tuple(sorted((k, v) for k, v in document.items() if k not in _SAME_VECTORS))
    if isinstance(given, str):
        return [Meaning(given, options)]
    if isinstance(given[0], int):
        return [Meaning(tuple(given), options)]
    return [Meaning(one if isinstance(one, str) else tuple(one), options) for one in given]


def vectors(answer: bytes) -> list[bytes]:
    """As float32, in the order of the texts, from numbers or base64, of either route."""
    document = json.loads(answer)
    if isinstance(document, list):
        return [_packed(one) for one in document]
    by_place = {one["index"]: _packed(one["embedding"]) for one in document["data"]}
    return [by_place[place] for place in range(len(document["data"]))]


def alone(path: str, body: bytes, item: Item) -> bytes:
    """The call that asks for ``item`` alone, with all else as in ``body``."""
    document = json.loads(body)
    return json.dumps({**document, "inputs" if path == NATIVE else "input": item}).encode()


def _packed(vector: Any) -> bytes:
    if isinstance(vector, str):
        return base64.b64decode(vector)
    return struct.pack(f"<{len(vector)}f", *vector)
