"""Embeddings answers of about 400 KB: the same vectors in every answer, whatever the texts, as floats or base64."""

from __future__ import annotations

import base64
import json
import random
import struct
from functools import cache

DIMENSIONS = 1024
TEXTS = 32


@cache
def answer(texts: int, encoding: str) -> bytes:
    """The body for ``texts`` texts, in vLLM's key order."""
    rng = random.Random(1)
    data = []
    for index in range(texts):
        vector = [round(rng.uniform(-0.1, 0.1), 9) for _ in range(DIMENSIONS)]
        packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
        embedding = packed if encoding == "base64" else vector
        data.append({"index": index, "object": "embedding", "embedding": embedding})
    usage = {"prompt_tokens": 5 * texts, "total_tokens": 5 * texts, "completion_tokens": 0}
    document = {"id": "embd-1", "object": "list", "created": 1795466982, "model": "mock-stream"}
    return json.dumps(document | {"data": data, "usage": usage}, separators=(",", ":")).encode()


def request(model: str) -> bytes:
    """Texts that differ from each other; wrk puts a number where the zeros are, so that no two requests are alike."""
    texts = [f"a text to embed, of request 00000000, number {number}" for number in range(TEXTS)]
    return json.dumps({"model": model, "input": texts}).encode()


def respond(body: bytes) -> bytes:
    asked = json.loads(body)
    given = asked.get("input")
    texts = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
    return answer(texts, asked.get("encoding_format") or "float")
