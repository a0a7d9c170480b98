"""The body of a call for several texts, and the vectors in its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sage_inference.engines.embeddings.vectors import Vector
from sage_inference.requests.embedding import NATIVE_ROUTE, Options

_MOST_TOKENS = 1 << 53  # a higher count is nonsense


class BadAnswerError(Exception):
    """The answer does not fit the call. The message has the difference."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """``vectors`` are JSON, in the order of the call's texts. ``tokens`` is None if the engine did not report them."""

    vectors: list[Vector]
    tokens: int | None
    model: str | None = None


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None


class _List(msgspec.Struct, gc=False):
    data: list[_Item]
    model: str | None = None
    usage: _Usage | None = None


class _Bare(msgspec.Struct, gc=False):
    data: list[_Item]


_read_bare = msgspec.json.Decoder(_Bare).decode
_read_list = msgspec.json.Decoder(_List).decode
_read_arrays = msgspec.json.Decoder(list[msgspec.Raw]).decode


def call_body(route: str, model: str, texts: Iterable[bytes], options: Options, *, base64: bool) -> bytes:
    """The body of a call. ``texts`` are JSON. TEI's own route has no ``base64``, and ignores it."""
    more = b"".join([b',"%b":%b' % (name.encode(), value) for name, value in options])
    joined = b",".join(texts)
    if route == NATIVE_ROUTE:
        return b'{"inputs":[%b]%b}' % (joined, more)
    form = b',"encoding_format":"base64"' if base64 else b""
    return b'{"model":%b,"input":[%b]%b%b}' % (msgspec.json.encode(model), joined, form, more)


def read_answer(route: str, body: bytes, headers: Sequence[tuple[bytes, bytes]], count: int) -> Embedded:
    """The vectors of ``count`` texts. Raises ``BadAnswerError``."""
    try:
        if route == NATIVE_ROUTE:
            return _native(body, headers, count)
        return _openai(body, count)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadAnswerError(f"answered no list of embeddings: {error}") from None


def _openai(body: bytes, count: int) -> Embedded:
    answer = _read(body)
    vectors: list[Vector] = [b""] * count
    for place, item in enumerate(answer.data):
        at = place if item.index is None else item.index
        if not 0 <= at < count or vectors[at]:
            raise BadAnswerError(f"answered with index {at} for {count} texts")
        vectors[at] = memoryview(item.embedding)
    _check(vectors, len(answer.data), count)
    return Embedded(vectors, _count(answer.usage.prompt_tokens) if answer.usage else None, answer.model)


def _read(body: bytes) -> _List:
    """The answer, without model and usage if these are malformed, because its vectors are of use without them."""
    try:
        return _read_list(body)
    except msgspec.ValidationError:
        return _List(_read_bare(body).data)


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else None


def _native(body: bytes, headers: Sequence[tuple[bytes, bytes]], count: int) -> Embedded:
    vectors: list[Vector] = [memoryview(one) for one in _read_arrays(body)]
    _check(vectors, len(vectors), count)
    tokens = next((value for name, value in headers if name == b"x-compute-tokens"), b"")
    # Thousands of digits are not converted, because int() raises for them.
    return Embedded(vectors, _count(int(tokens)) if tokens.isdigit() and len(tokens) < 20 else None)


def _check(vectors: list[Vector], found: int, count: int) -> None:
    if found != count:
        raise BadAnswerError(f"answered {found} embeddings for {count} texts")
    if any(vector[0] not in b'["' for vector in vectors):
        raise BadAnswerError("answered something that is no vector")
