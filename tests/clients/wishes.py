"""What the clients ask for."""

from __future__ import annotations

from typing import Any

LLM, EMBEDDER = "simulated-llm", "simulated-embedding"
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
