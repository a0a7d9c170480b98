"""Reads a stream of tokens: pieces of text, then the usage and the finish reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sage_inference.client.answers import Answer, stream_error, text_of
from sage_inference.client.errors import EngineError
from sage_inference.client.results import InferenceResult, Kind
from sage_inference.client.sse import Event, EventReader


class StreamText:
    """Reads the events of one answer. ``head`` is the answer with an empty body.

    ``on_thought`` gets the pieces of a reasoning model's thoughts, and ``on_comment`` the stream's comments.
    """

    def __init__(
        self,
        kind: Kind,
        head: Answer,
        *,
        on_thought: Callable[[str], None] | None = None,
        on_comment: Callable[[bytes], None] | None = None,
    ) -> None:
        self._on_thought = on_thought
        self.kind = kind
        self.head = head
        self.ended = False
        self.model = ""
        self.usage: Mapping[str, int] = {}
        self.finish_reason: str | None = None
        self._events = EventReader(on_comment)
        self._pieces: list[str] = []

    def feed(self, data: bytes) -> Iterator[str]:
        """The pieces of text in these bytes. Empty after the stream's end.

        Raises ``EngineError`` for an error event, after returning the text before it.
        """
        return iter(()) if self.ended else self._pieces_of(self._events.feed(data))

    def finish(self) -> Iterator[str]:
        """The text of a last event without an empty line, after all bytes were fed.

        Raises ``EngineError`` if the stream was not complete.
        """
        last = None if self.ended else self._events.finish()
        if last is not None and (_is_end(last.data) or _object(last.data) is not None):
            yield from self._pieces_of([last])  # all other data is cut
        if not self.ended and self.finish_reason is None:
            raise self._failed("the stream ended before its end")

    def _pieces_of(self, events: list[Event]) -> Iterator[str]:
        for event in events:
            if _is_end(event.data):
                self.ended = True
                return
            if event.data.strip() and (piece := self._read(event)):
                self._pieces.append(piece)
                yield piece

    @property
    def result(self) -> InferenceResult:
        """The result of the events so far. It is complete when the stream is over."""
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

    def _read(self, event: Event) -> str:
        found = _object(event.data)
        if found is None:
            raise self._failed(f"the stream has an event that is no JSON object: {event.data[:300]!r}")
        if (error := _error(event.name, found)) is not None:
            raise stream_error(error, self.head)
        self.model = self.model or str(found.get("model") or "")
        usage = found.get("usage")
        if usage and isinstance(usage, dict):
            self.usage = usage
        choice = _first_choice(found.get("choices"))
        if choice is None:
            return ""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if self.kind != "chat":
            return text_of(choice.get("text"))
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return ""
        if self._on_thought is not None and (thought := _thought(delta)):
            self._on_thought(thought)
        return text_of(delta.get("content"))

    def _failed(self, message: str) -> EngineError:
        return EngineError(message, request_id=self.result.request_id, instance=self.head.instance)


def _is_end(data: bytes) -> bool:
    """Whether data begins with ``[DONE]``. More may follow, as in the openai SDK."""
    return data.lstrip().startswith(b"[DONE]")


def _first_choice(choices: Any) -> dict[str, Any] | None:
    listed = choices if isinstance(choices, list) else ()
    return next((one for one in listed if isinstance(one, dict) and not one.get("index")), None)


def _thought(delta: Mapping[str, Any]) -> str:
    """Engines name it ``reasoning_content`` or, since 2025, ``reasoning``. Some send both."""
    return text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning"))


def _object(data: bytes) -> dict[str, Any] | None:
    """The JSON object of an event. Bytes that are not UTF-8 become U+FFFD, as the standard for events demands."""
    try:
        found = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _error(name: bytes, found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The event with an ``error`` key if it reports an error: by that key, by its name, or by vLLM's ``object``."""
    if found.get("error"):
        return found
    return {"error": found} if name == b"error" or found.get("object") == "error" else None
