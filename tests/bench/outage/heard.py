"""What one caller asked for, what an engine ought to answer, and what the caller heard."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sage_inference.simulator import tokens
from sage_inference.simulator.answers import Wish, answer, friendly, seed_of

MODEL = "simulated-llm"
_FILL = "count the gates of this town and say which of them is open at night "
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat. Its first words are its own, so that no engine has its prompt cached."""

    number: int
    streamed: bool
    prompt_words: int
    output_tokens: int

    @property
    def text(self) -> str:
        words = _FILL.split()
        return f"caller {self.number} asks: " + " ".join(
            words[i % len(words)] for i in range(self.prompt_words)
        )

    def document(self) -> bytes:
        """The request's body."""
        return json.dumps(
            {
                "model": MODEL,
                "messages": [{"role": "user", "content": self.text}],
                "max_tokens": self.output_tokens,
                "ignore_eos": True,
                "stream": self.streamed,
            }
        ).encode()

    def request(self) -> bytes:
        body = self.document()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        return head.encode() + body

    def expected(self) -> str:
        """What every simulated engine says to it."""
        seed = seed_of(tokens.chat_prompt([self.text]), 0)
        wish = Wish(1 << 20, max_tokens=self.output_tokens, ignore_eos=True)
        return answer(friendly(self.text, seed), seed, wish).text


class End(StrEnum):
    """How it ended for the caller."""

    WHOLE = "whole"  # all that the engine ought to send
    CUT = "cut"  # a stream that visibly broke off: right so far, and nothing that looks like an end
    FALSE = "false"  # it looks whole and is not
    FAILED = "failed"  # an error instead of an answer, or a wrong text


@dataclass(slots=True)
class Heard:
    """Moments are of ``time.monotonic``; ``complete``: the answer came to the end that its framing declared."""

    ask: Ask
    due: float
    first: float = math.nan  # its first byte of a body
    ended: float = math.nan
    status: int = 0
    instance: str = ""
    gateway: int = 0  # that was asked last, of those that the caller knows
    complete: bool = False
    error: str = ""
    body: bytearray = field(default_factory=bytearray)

    @property
    def streams(self) -> bool:
        """Whether a stream is under way."""
        return self.ask.streamed and bool(self.body) and math.isnan(self.ended)

    @property
    def ttft_ms(self) -> float:
        return (self.first - self.due) * 1000

    @property
    def end(self) -> End:
        if self.status != 200:
            return End.FAILED
        text, expected = self._text(), self.ask.expected()
        looks_whole = self.complete or (self.ask.streamed and _DONE in self.body)
        if looks_whole:
            whole = text == expected and (not self.ask.streamed or self.body.endswith(_DONE))
            return End.WHOLE if self.complete and whole else End.FALSE
        # Not one byte of a body: it could have been sent elsewhere.
        begun = self.ask.streamed and bool(self.body) and expected.startswith(text)
        return End.CUT if begun else End.FAILED

    def _text(self) -> str:
        if not self.ask.streamed:
            try:
                return str(json.loads(self.body)["choices"][0]["message"]["content"])
            except (ValueError, LookupError):
                return self.body.decode("utf-8", "replace")
        said = ""
        for event in bytes(self.body).split(b"\n\n"):
            if event.startswith(b"data: {"):
                choices: list[Any] = json.loads(event[6:]).get("choices", [])
                said += "".join(choice["delta"].get("content") or "" for choice in choices)
        return said
