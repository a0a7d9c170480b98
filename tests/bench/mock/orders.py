"""What a caller asks of the stream engine, written where every gateway passes it on: in a message's text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_ORDER = re.compile(rb"mock\[([^\]]*)\]")
_PADDING = "Say it again. " * 20


@dataclass(frozen=True, slots=True)
class Orders:
    """``chunks`` of text, ``gap_us`` apart (0: as fast as sockets take them), all after ``first_ms``.

    ``early_head``: the answer's head doesn't wait for them, as vLLM's doesn't.
    Without a ``tag`` each chunk's text is its send time, with one it is the tag and the chunk's number.
    ``status`` other than 200: an error of that status; ``reset``: the connection closes without a byte.
    """

    chunks: int = 16
    gap_us: int = 20_000
    first_ms: int = 0
    early_head: int = 0
    tag: str = ""
    status: int = 200
    reset: int = 0

    def body(self, model: str) -> bytes:
        """A chat request that carries these orders."""
        words = " ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)
        message = {"role": "user", "content": f"mock[{words}] {_PADDING}"}
        return json.dumps({"model": model, "messages": [message], "stream": True, "max_tokens": 512}).encode()

    @classmethod
    def of(cls, body: bytes) -> Orders:
        found = _ORDER.search(body)
        words = dict(word.split("=", 1) for word in found[1].decode().split()) if found else {}
        return cls(
            int(words.get("chunks", 16)),
            int(words.get("gap_us", 20_000)),
            int(words.get("first_ms", 0)),
            int(words.get("early_head", 0)),
            words.get("tag", ""),
            int(words.get("status", 200)),
            int(words.get("reset", 0)),
        )
