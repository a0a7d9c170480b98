"""Texts in, vectors out: batches of texts, a few of them under way at a time, answered in order."""

from __future__ import annotations

import io
import math
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sage_inference.cli.chat.words import STDIN, clean, is_terminal
from sage_inference.cli.errors import Failure, usage
from sage_inference.cli.served import ModelServer, failure_of
from sage_inference.client.direct_http import transport_to
from sage_inference.client.endpoint import Endpoint
from sage_inference.client.errors import SageInferenceError
from sage_inference.client.requests import post
from sage_inference.client.vectors import as_lists, embeddings

_PATH = "/v1/embeddings"
_FEW = 32  # texts in a request that every engine accepts
_MANY = 256  # texts in a request to a gateway, which cuts it for its engines
_BATCH_CHARACTERS = 500_000
_AT_ONCE = 4
_SILENCE_S = 600.0
_LONGEST_LINE = 16 << 20


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """Some texts and their vectors. ``prompt_tokens`` is None if the server did not count."""

    texts: list[str]
    vectors: list[list[float]]
    prompt_tokens: int | None


def texts_of(words: Sequence[str]) -> Iterator[str]:
    """The texts of the command line, with the lines of stdin in place of ``-``. Raises a usage failure if there are none."""
    if list(words).count(STDIN) > 1:
        raise usage("standard input (-) can be read once only")
    if not words:
        if is_terminal(sys.stdin):
            raise usage("no text was given", 'as in: sage inference embed "a text"; - reads lines of stdin')
        words = [STDIN]
    return _texts(words)


def _texts(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word == STDIN:
            yield from _lines()
        else:
            yield clean(word)


def _lines() -> Iterator[str]:
    """The lines of stdin without their ends. Bytes that are no UTF-8 become U+FFFD."""
    number = 0
    source = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode("utf-8", "replace"))
    while True:
        try:
            raw = source.readline(_LONGEST_LINE + 1)
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard input") from None
        if not raw:
            return
        number += 1
        if len(raw) > _LONGEST_LINE:
            raise Failure(
                f"line {number} of standard input has more than {_LONGEST_LINE >> 20} MiB", code="too_long"
            )
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
        yield text.removesuffix("\n").removesuffix("\r")


def embedded(server: ModelServer, model: str, texts: Iterable[str]) -> Iterator[EmbeddedTexts]:
    """The batches in the order of the texts. Raises ``Failure`` with the numbers of the texts that failed."""
    size = _FEW if server.paths is None else _MANY
    waiting: deque[_SentBatch] = deque()
    for first, some in _batches(texts, size):
        waiting.append(_SentBatch(server, model, first, some))
        if len(waiting) == _AT_ONCE:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(texts: Iterable[str], size: int) -> Iterator[tuple[int, list[str]]]:
    """The number of the first text, from 1, and the texts."""
    first, characters = 1, 0
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) == size or characters + len(text) > _BATCH_CHARACTERS):
            yield first, batch
            first, batch, characters = first + len(batch), [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield first, batch


class _SentBatch:
    """A request under way. Its thread is a daemon, so that Ctrl-C ends the process, and with it the request."""

    def __init__(self, server: ModelServer, model: str, first: int, texts: list[str]) -> None:
        self._server, self._model = server, model
        self._first, self._texts = first, texts
        self._done: queue.SimpleQueue[EmbeddedTexts | BaseException] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def result(self) -> EmbeddedTexts:
        done = self._done.get()
        if isinstance(done, SageInferenceError):
            failure = failure_of(done, self._server.url, self._server.key is not None, self._model)
            last = self._first + len(self._texts) - 1
            if last > 1:
                which = f"text {last}" if last == self._first else f"texts {self._first} to {last}"
                failure.message = f"{which}: {failure.message}"
            raise failure
        if isinstance(done, BaseException):
            raise done
        return done

    def _run(self) -> None:
        try:
            self._done.put(self._asked())
        except BaseException as error:  # raised again in ``result``
            self._done.put(error)

    def _asked(self) -> EmbeddedTexts:
        body = {"input": self._texts, "encoding_format": "base64"}
        request = post(Endpoint(self._server.url, None, self._server.key), _PATH, body, model=self._model)
        answer = transport_to(self._server.url).send(request, _SILENCE_S)
        vectors, document = embeddings(answer, len(self._texts))
        counted = document.get("usage")
        tokens = counted.get("prompt_tokens") if isinstance(counted, dict) else None
        return EmbeddedTexts(self._texts, as_lists(vectors), tokens if isinstance(tokens, int) else None)


def line_of(vector: Sequence[float]) -> str:
    """A JSON array with as many digits as a float32 has. A value that is no number is null, as JSON has none."""
    return f"[{', '.join(f'{value:.9g}' if math.isfinite(value) else 'null' for value in vector)}]"


def rounded(vector: Sequence[float]) -> list[float | None]:
    """The values of ``line_of``."""
    return [float(f"{value:.9g}") if math.isfinite(value) else None for value in vector]
