"""The requests of callers: chats and embeddings whose tokens are known beforehand."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.soak.wire import post

LLM, EMBEDDER = "simulated-llm", "simulated-embedding"
WORDS = (5, 40, 160)  # of a prompt
_OUTPUT = (1, 8, 24, 60)  # tokens
_LEAVES = 0.25  # of the streams
_FEW = 6  # chunks that a caller reads before it leaves, at most


@dataclass(frozen=True, slots=True)
class Ask:
    """``leaves_after``: chunks of a stream, None if the caller stays. ``max_tokens`` is 0 for embeddings."""

    words: int
    prompt_tokens: int
    max_tokens: int
    streamed: bool = False
    leaves_after: int | None = None

    def request(self, secret: str) -> bytes:
        path, document = body_of(self)
        return post(path, json.dumps(document).encode(), f"authorization: Bearer {secret}")


def draw(rng: random.Random, prompt_tokens: Mapping[tuple[str, int], int]) -> Ask:
    """A request. ``prompt_tokens``: by model and number of words."""
    words = rng.choice(WORDS)
    if rng.random() < 0.2:
        return Ask(words, prompt_tokens[EMBEDDER, words], 0)
    streamed = rng.random() < 0.6
    leaves = rng.randint(1, _FEW) if streamed and rng.random() < _LEAVES else None
    return Ask(words, prompt_tokens[LLM, words], rng.choice(_OUTPUT), streamed, leaves)


def body_of(ask: Ask) -> tuple[str, dict[str, Any]]:
    prompt = " ".join(["word"] * ask.words)
    if not ask.max_tokens:
        return "/v1/embeddings", {"model": EMBEDDER, "input": prompt}
    document: dict[str, Any] = {
        "model": LLM,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": ask.max_tokens,
        "ignore_eos": True,
    }
    if ask.streamed:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    return "/v1/chat/completions", document
