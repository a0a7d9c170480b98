"""Shows an answer while it comes: exactly its text in a pipe or file, and safely on a terminal."""

from __future__ import annotations

import sys

import typer

from sage_inference.cli import terminal
from sage_inference.cli.chat.asking import Reply
from sage_inference.cli.chat.words import is_terminal
from sage_inference.cli.numbers import duration
from sage_inference.visible import visible_text

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_SOON_S, _LATE_S = 0.5, 10.0  # before the wait is shown: on a terminal, in a pipe


class Silent:
    """Shows only that the answer is awaited."""

    def __init__(self, model: str) -> None:
        self._model = model
        after_s = _SOON_S if terminal.is_live() else _LATE_S
        self._waiting = terminal.WaitIndicator(f"waiting for {model}", after_s=after_s)
        self._waiting.begin()

    def text(self, piece: str) -> None:
        self._waiting.end()

    def thought(self, piece: str) -> None:
        pass

    def comment(self, comment: bytes) -> None:
        """The gateway reports in comments that an engine loads."""
        words = comment.decode("utf-8", "replace").strip()
        if words:
            self._waiting.update(f"waiting for {self._model}: {words[:200]}")

    def end(self) -> None:
        self._waiting.end()


class Piped(Silent):
    """The text itself, and a line break after it."""

    def text(self, piece: str) -> None:
        super().text(piece)
        write(piece)

    def done(self, reply: Reply) -> None:
        write("\n")


class OnTerminal(Silent):
    """The text with control characters made visible, thoughts dim, and a line about the answer below it."""

    def __init__(self, model: str, *, styled: bool) -> None:
        super().__init__(model)
        self._styled = styled
        self._thinks = False
        self._last = "\n"

    def thought(self, piece: str) -> None:
        self._waiting.end()
        if not self._thinks:
            self._thinks = True
            write(_DIM if self._styled else "(thinking)\n")
        self._write(piece)

    def text(self, piece: str) -> None:
        super().text(piece)
        self._stop_thinking()
        self._write(piece)

    def end(self) -> None:
        """Leave the terminal as it was, on a new line."""
        super().end()
        if self._thinks and self._styled:
            write(_PLAIN)
        self._thinks = False
        if self._last != "\n":
            write("\n")
            self._last = "\n"

    def done(self, reply: Reply) -> None:
        self.end()
        aside(summary(reply))

    def _stop_thinking(self) -> None:
        if self._thinks:
            self._thinks = False
            write(f"{'' if self._last == chr(10) else chr(10)}{_PLAIN if self._styled else '(answer)'}\n")

    def _write(self, piece: str) -> None:
        shown = visible_text(piece)
        if shown:
            write(shown)
            self._last = shown[-1]


def output_for(model: str, colour: bool | None) -> Piped | OnTerminal:
    if not is_terminal(sys.stdout):
        return Piped(model)
    return OnTerminal(model, styled=colour is not False)


def write(text: str) -> None:
    """Write to stdout at once. Raises ``BrokenPipeError`` if the reader has left."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def aside(text: str) -> None:
    """A dim line on stderr, if a person reads it there."""
    if not is_terminal(sys.stderr):
        return
    typer.echo(typer.style(visible_text(text), dim=True), err=True)


def summary(reply: Reply) -> str:
    """``57 tokens, 43.1 tokens/s, first after 0.21 s``."""
    tokens = reply.completion_tokens
    if tokens is None:
        pieces = len(reply.pieces) + len(reply.thoughts)
        parts = [f"about {pieces} token{'' if pieces == 1 else 's'}"]
    else:
        parts = [f"{tokens:,} token{'' if tokens == 1 else 's'}"]
    if reply.tokens_per_s is not None:
        parts.append(
            f"{reply.tokens_per_s:,.3g} tokens/s"
            if reply.tokens_per_s < 1000
            else f"{reply.tokens_per_s:,.0f} tokens/s"
        )
    if reply.ttft_s is not None:
        parts.append(f"first after {duration(reply.ttft_s)}")
    if reply.finish_reason == "length":
        parts.append("cut at max_tokens or the context")
    return ", ".join(parts)
