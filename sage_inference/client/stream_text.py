"""What a stream of tokens says: pieces of text, and at its end usage and why it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sage_inference.client.answers import Answer, stream_error
from sage_inference.client.errors import EngineError
from sage_inference.client.results import InferenceResult, Kind
from sage_inference.client.sse import EventReader


class StreamText:
    """Reads one answer's events. ``head`` is the answer's head, its body empty."""

    def __init__(self, kind: Kind, head: Answer) -> None:
        self.kind = kind
        self.head = head
        self.ended = False
        self.model = ""
        self.usage: Mapping[str, int] = {}
        self.finish_reason: str | None = None
        self._events = EventReader()
        self._pieces: list[str] = []

    def feed(self, data: bytes) -> list[str]:
        """The pieces of text in these bytes. Raises ``EngineError`` for an error told in the stream."""
        pieces = []
        for event in self._events.feed(data):
            if event == b"[DONE]":
                self.ended = True
                break
            piece = self._read(event)
            if piece:
                pieces.append(piece)
        self._pieces += pieces
        return pieces

    def close(self) -> None:
        """The bytes are over. Raises ``EngineError`` where the stream was not."""
        if not self.ended and self.finish_reason is None:
            raise self._failed("the stream ended before its end")

    @property
    def result(self) -> InferenceResult:
        """What has come so far; complete once the stream is over."""
        request_id = self.head.headers.get("x-request-id") or self.head.request_id
        return InferenceResult(
            request_id,
            self.kind,
            "".join(self._pieces),
            self.model,
            self.usage,
            self.head.latency_ms,
            self.finish_reason,
            self.head.instance,
        )

    def _read(self, event: bytes) -> str:
        try:
            found: Any = json.loads(event)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._failed(f"the stream has an event that is no JSON object: {event[:300]!r}")
        if found.get("error"):
            raise stream_error(found, self.head)
        self.model = self.model or str(found.get("model") or "")
        self.usage = found.get("usage") or self.usage
        choices = found.get("choices") or ()
        choice = next((one for one in choices if one.get("index", 0) == 0), None)
        if choice is None:
            return ""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        text = (choice.get("delta") or {}).get("content") if self.kind == "chat" else choice.get("text")
        return text or ""

    def _failed(self, message: str) -> EngineError:
        return EngineError(message, request_id=self.result.request_id, instance=self.head.instance)
