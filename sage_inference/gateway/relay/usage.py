"""Finds the usage that an engine reports in the bytes of its answer."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from sage_inference.requests.lenient import UNREADABLE
from sage_inference.types import Usage

# No generated text contains these marks, because JSON escapes the quotes of a text.
_NAME = b'"usage"'
_MARK = b'"usage":'
_SPACED_MARK = b'"usage" :'
_ENDING = b'"finish_reason"'
_NEAR = 512  # bytes at the end of an answer, in which its usage mostly is
_LONGEST = 4096  # bytes that are kept from the start of a usage object on
_OBJECT = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


_MOST = 1 << 40  # tokens; no engine means more
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _Tokens(msgspec.Struct, gc=False):
    """Usage with OpenAI's names."""

    prompt_tokens: _Count
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _WithUsage(msgspec.Struct, gc=False):
    usage: _Tokens | None


_decode = msgspec.json.Decoder(_WithUsage).decode


def reported(text: bytes) -> Usage | None:
    """The last complete usage in an answer or a part of it; None if there is none.

    With ``continuous_usage_stats`` each event has a usage, and servers end streams with ``"usage": null``.
    """
    # The usual case: a usage near the end, in an answer or an event that is complete. The rest of it is decoded too, up to the
    # end of the line, because that costs less than a search for the end of the usage. Every request pays for these calls.
    _, mark, rest = text[-_NEAR:].rpartition(_MARK)
    if mark:
        try:
            tokens = _decode(b'{"usage":' + rest.partition(b"\n")[0]).usage
        except UNREADABLE:
            tokens = None
        if tokens is not None:
            details = tokens.prompt_tokens_details
            return Usage(
                tokens.prompt_tokens,
                tokens.completion_tokens or 0,
                None if details is None else details.cached_tokens,
            )
    # Most streams report none. ``find``, because ``in`` takes half as long again.
    return None if text.find(_NAME) < 0 else _last(text, _MARK) or _last(text, _SPACED_MARK)


def _last(text: bytes, mark: bytes) -> Usage | None:
    at = len(text)
    while (at := text.rfind(mark, 0, at)) >= 0:
        found = _OBJECT.match(text, at)
        usage = _decoded(found[1]) if found else None
        if usage is not None:
            return usage
    return None


def choices_in(text: bytes) -> int:
    """The number of choices of a plain answer, counted by their finish reasons; 1 in protocols without choices."""
    return max(1, text.count(_ENDING))


class PlainUsage:
    """Finds the usage in a plain answer that comes in pieces. Keeps only the bytes around it.

    ``choices`` counts as ``choices_in`` does.
    """

    __slots__ = ("_around", "_edge", "_endings")

    def __init__(self) -> None:
        self._endings = 0
        self._around = b""
        self._edge = b""  # the end of the piece before: a mark may be divided between two pieces

    def add(self, piece: bytes | memoryview) -> None:
        data = bytes(piece)
        self._endings += data.count(_ENDING)
        joint = self._edge + data[: len(_MARK)]
        at = data.rfind(_MARK)
        if at >= 0:
            self._around = data[at : at + _LONGEST]
        elif (crossing := joint.rfind(_MARK)) >= 0:
            self._around = joint[crossing:] + data[len(_MARK) : _LONGEST]
        elif self._around:
            self._around += data[: _LONGEST - len(self._around)]
        self._edge = (
            (self._edge + data)[1 - len(_MARK) :] if len(data) < len(_MARK) else data[1 - len(_MARK) :]
        )

    @property
    def choices(self) -> int:
        return max(1, self._endings)

    @property
    def text(self) -> bytes:
        """The bytes in which ``reported`` finds the usage."""
        return self._around


def _decoded(text: bytes) -> Usage | None:
    """A usage object with OpenAI's names, or with those of /v1/responses and /v1/messages."""
    try:
        usage = msgspec.json.decode(text)
    except UNREADABLE:
        return None
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    output = _count(usage, "completion_tokens", "output_tokens")
    if prompt is None and output is None:
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    apart = _count(usage, "cache_read_input_tokens")
    if cached is None and apart is not None:
        # Anthropic's input_tokens exclude the tokens that were read from the cache or written to it.
        cached = apart
        prompt = (prompt or 0) + apart + (_count(usage, "cache_creation_input_tokens") or 0)
    return Usage(prompt or 0, output or 0, cached)


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value <= _MOST:
            return value
    return None
