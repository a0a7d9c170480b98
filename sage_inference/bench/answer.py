"""Reads an answer's bytes: its tokens, the moments of their arrival, its completeness.

The module uses regular expressions on raw JSON, because decoding each event would cost five times as much. A model's text
cannot be mistaken for a key, because a quote inside a JSON string has a backslash before it.
"""

from __future__ import annotations

import json
import re
from typing import Protocol

_TEXT = re.compile(rb'"(?:content|reasoning_content|reasoning|text|arguments)"\s*:\s*"[^"]')
_ERROR = re.compile(rb'data:\s*\{\s*"(?:error"\s*:|object"\s*:\s*"error")')
_PROMPT_TOKENS = re.compile(rb'"prompt_tokens"\s*:\s*(\d+)')
_OUTPUT_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')
_EXAMPLE = 200


class Reading(Protocol):
    """An answer as it arrives. Token counts are None if the server does not report them."""

    arrivals: list[float]  # of pieces of text; empty if the answer is not streamed
    prompt_tokens: int | None
    output_tokens: int | None

    def feed(self, piece: bytes, now: float) -> None: ...

    def fault(self) -> tuple[str, str] | None:
        """Kind and example of an ended answer's error. None if there is no error."""


class Streamed:
    """Server-sent events. Events in one packet have one moment of arrival."""

    __slots__ = ("_done", "_error", "_rest", "arrivals", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self._rest = b""
        self._done = False
        self._error: bytes | None = None

    def feed(self, piece: bytes, now: float) -> None:
        data = self._rest + piece if self._rest else piece
        if b"\r" in data:  # in JSON it is escaped, so it ends a line of an event
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        for event in events:
            if _TEXT.search(event):
                self.arrivals.append(now)
            elif event.endswith(b"[DONE]"):
                self._done = True
            elif _ERROR.match(event):
                self._error = event
            if b'"completion_tokens"' in event:
                self.prompt_tokens = _number(_PROMPT_TOKENS, event)
                self.output_tokens = _number(_OUTPUT_TOKENS, event)

    def fault(self) -> tuple[str, str] | None:
        if self._error is not None:
            return "stream_error", message_of(self._error.partition(b":")[2])
        return None if self._done else ("incomplete", "the stream ended without [DONE]")


class Plain:
    """One JSON document, which must have ``key``."""

    __slots__ = ("_key", "_pieces", "arrivals", "output_tokens", "prompt_tokens")

    def __init__(self, key: bytes) -> None:
        self.arrivals: list[float] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self._key = b'"%b"' % key
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes, now: float) -> None:
        self._pieces.append(piece)

    def fault(self) -> tuple[str, str] | None:
        pieces, self._pieces = self._pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._key not in body:
            return "malformed", message_of(body)
        # Search from the end, because usage comes after the answer, which may be long.
        at = body.rfind(b'"usage"')
        if at >= 0:
            self.prompt_tokens = _number(_PROMPT_TOKENS, body, at)
            self.output_tokens = _number(_OUTPUT_TOKENS, body, at)
        return None


class Refused:
    """An answer with another status than 200: an error and its message."""

    __slots__ = ("_pieces", "_status", "arrivals", "output_tokens", "prompt_tokens")

    def __init__(self, status: int) -> None:
        self.arrivals: list[float] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self._status = status
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes, now: float) -> None:
        self._pieces.append(piece)

    def fault(self) -> tuple[str, str] | None:
        return f"http_{self._status}", message_of(b"".join(self._pieces))


def message_of(body: bytes) -> str:
    """The message in an error's body, as one short line."""
    try:
        document = json.loads(body)
        error = document.get("error", document.get("detail", document))
        text = str(error["message"] if isinstance(error, dict) and "message" in error else error)
    except (ValueError, AttributeError, RecursionError):
        text = body.decode("utf-8", "replace")
    line = " ".join(text.split())
    return line if len(line) <= _EXAMPLE else f"{line[:_EXAMPLE]}…"


def _number(pattern: re.Pattern[bytes], data: bytes, start: int = 0) -> int | None:
    found = pattern.search(data, start)
    return int(found[1]) if found else None
