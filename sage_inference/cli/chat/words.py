"""The words of the command line: which of them is the model, and which are the prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from sage_inference.cli.errors import Failure, usage
from sage_inference.cli.served import ModelServer

STDIN = "-"
_MOST_BYTES = 64 << 20


def split(server: ModelServer, given: str | None, words: Sequence[str]) -> tuple[str, list[str]]:
    """The model and the words of the prompt.

    The first word is the model if it names one. Otherwise a single word is a prompt for the only chat model, unless it
    resembles the name of a model: a misspelled model must not become a prompt.
    """
    if given is not None:
        return server.require(given, "chat"), list(words)
    if not words or words[0] == STDIN:
        return server.only("chat"), list(words)
    first = words[0]
    if server.name_for(first) is not None:
        return server.require(first, "chat"), list(words[1:])
    if len(words) > 1:
        hint = f"the first of several words is the model; put quotes around a prompt: {_command('...')}"
        raise _no_model(server, first, hint)
    if server.near(first) or _is_shaped_like_a_model(first):
        raise _no_model(server, first, f"to send it as a prompt: {_command('MODEL', first)}")
    return server.only("chat"), [first]


def _no_model(server: ModelServer, word: str, hint: str) -> Failure:
    failure = server.unknown(word, "chat")
    return replace(
        failure,
        hint=f"{failure.hint}{' ' if failure.hint.endswith('?') else '; '}{hint}" if failure.hint else hint,
    )


def _command(*words: str) -> str:
    from shlex import quote

    return " ".join(["sage inference chat", *(quote(word) for word in words)])


def _is_shaped_like_a_model(word: str) -> bool:
    """``org/model`` of a hub, or ``model:tag``."""
    import re

    return (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?::[\w.-]+)?|[A-Za-z][\w.-]*\d[\w.-]*:[\w.-]+", word)
        is not None
    )


def prompt_of(words: Sequence[str]) -> str | None:
    """The text of the prompt, with standard input in place of ``-``. None if there is none, and stdin is a terminal."""
    if words.count(STDIN) > 1:
        raise usage("standard input (-) can be read once only")
    if not words:
        if is_terminal(sys.stdin) and is_terminal(sys.stdout):
            return None
        if is_terminal(sys.stdin):
            from sage_inference.cli import terminal

            terminal.talk("reading the prompt from this terminal; Ctrl-D ends it")
        words = [STDIN]
    parts, at = [], list(words).index(STDIN) if STDIN in words else None
    if at is None:
        parts = [" ".join(words)]
    else:
        parts = [" ".join(words[:at]), read_stdin(), " ".join(words[at + 1 :])]
    text = clean("\n\n".join(part for part in parts if part))
    if not text.strip():
        raise usage("the prompt is empty", "sage inference chat --help")
    return text


def read_stdin() -> str:
    """The text of standard input, without line breaks at its end. Bytes that are no UTF-8 become U+FFFD."""
    try:
        raw = sys.stdin.buffer.read(_MOST_BYTES + 1) if hasattr(sys.stdin, "buffer") else sys.stdin.read()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard input") from None
    if len(raw) > _MOST_BYTES:
        raise Failure(f"standard input has more than {_MOST_BYTES >> 20} MiB", code="too_long")
    text = raw.decode("utf-8-sig", "replace") if isinstance(raw, bytes) else str(raw)
    return text.rstrip("\r\n")


def clean(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, which are bytes of an argument that were no text."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def is_terminal(stream: object) -> bool:
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # a closed stream
        return False
