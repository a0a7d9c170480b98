"""Results of the clients other than plain texts and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["chat", "generate", "embed"]


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """One answer with its metadata.

    ``content`` is the call's return value without ``return_result``: a text, a vector or a list of vectors.
    ``raw`` is the server's whole document. If an embedding took several requests, it is the first one's.
    ``instance`` is the instance that answered, if a gateway reports it. ``latency_ms`` counts from sending the request.
    """

    request_id: str
    request_type: Kind
    content: Any
    model: str
    usage: Mapping[str, int] = field(default_factory=dict)
    latency_ms: float = 0.0
    finish_reason: str | None = None
    instance: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content of a chat or a completion. Empty for embeddings."""
        return self.content if isinstance(self.content, str) else ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of the first choice, unchanged. Empty without any."""
        choices = self.raw.get("choices") or [{}]
        calls = (choices[0].get("message") or {}).get("tool_calls")
        return list(calls or ())


@dataclass(frozen=True, slots=True)
class Ranking:
    """A text's place in a ranking. ``index`` is its position in the given list, and a higher ``score`` is better."""

    index: int
    score: float
