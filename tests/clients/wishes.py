"""What the clients ask for."""

from __future__ import annotations

from typing import Any

LLM, EMBEDDER, RERANKER = "simulated-llm", "simulated-embedding", "simulated-reranker"
DIMENSION = 384
HELLO: Any = [{"role": "user", "content": "hello"}]
TEXTS = ["first", "second", "third"]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
QUERY, DOCUMENTS = "the capital of France", ["cats sleep", "Paris is the capital of France", "dogs bark"]
BEST = 1  # the place in DOCUMENTS
