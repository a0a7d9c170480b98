"""A conversation with a model, and its questions."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sage_inference.cli import terminal
from sage_inference.cli.chat.asking import Message, Reply, ask, document
from sage_inference.cli.chat.output import Silent, output_for
from sage_inference.cli.served import ModelServer, wait_for_engine


@dataclass(slots=True)
class Conversation:
    """``fields`` are those of ``--set``. ``last`` is the last answer, complete or not."""

    server: ModelServer
    model: str
    system: str | None
    fields: dict[str, Any]
    messages: list[Message] = field(default_factory=list)
    last: Reply | None = None
    replies: int = 0
    tokens: int = 0

    def answer_once(self, prompt: str, *, as_json: bool, colour: bool | None) -> None:
        """Show the answer to one prompt."""
        wait_for_engine(self.server, self.model)
        if not as_json:
            self.ask(prompt, colour)
            return
        output = Silent(self.model)
        try:
            reply = self._asked(prompt, output)
        finally:
            output.end()
        terminal.say_json(document(reply))

    def ask(self, prompt: str, colour: bool | None) -> None:
        """Show the answer, and keep both for the next question. Of an interrupted answer the text so far is kept."""
        output = output_for(self.model, colour)
        try:
            reply = self._asked(prompt, output)
            output.done(reply)
        finally:
            output.end()

    def _asked(self, prompt: str, output: Any) -> Reply:
        reply = self.last = Reply(self.model, time.perf_counter())
        asked = {"role": "user", "content": prompt}
        before = [{"role": "system", "content": self.system}] if self.system else []
        kept = False
        try:
            ask(self.server, reply, [*before, *self.messages, asked], self.fields, output)
            kept = True
        except KeyboardInterrupt:
            kept = bool(reply.pieces)
            raise
        finally:
            if kept:
                self.messages += [asked, {"role": "assistant", "content": reply.text}]
                self.replies += 1
                self.tokens += reply.completion_tokens or 0
        return reply
