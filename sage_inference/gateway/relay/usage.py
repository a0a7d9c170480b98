"""What an engine says a request took, found in the bytes of its answer."""

from __future__ import annotations

import re

import msgspec

from sage_inference.types import Usage

USAGE_BYTES = 2048  # at the end of an answer, in which its usage is looked for
_MARK = b'"usage":'
_OBJECT = re.compile(rb"\s*\{(?:[^{}]|\{[^{}]*\})*\}")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Counted(msgspec.Struct):
    """OpenAI's names; those of /v1/responses and /v1/messages beside them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None


_decode = msgspec.json.Decoder(_Counted).decode


def reported(piece: bytes) -> Usage | None:
    """The last usage in a piece of an answer; None where it is cut, absent or of another form."""
    start = piece.rfind(_MARK)
    found = _OBJECT.match(piece, start + len(_MARK)) if start >= 0 else None
    return _read(found[0]) if found else None


def _read(raw: bytes) -> Usage | None:
    try:
        said = _decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    details = said.prompt_tokens_details
    return Usage(
        said.prompt_tokens or said.input_tokens,
        said.completion_tokens or said.output_tokens,
        details.cached_tokens if details else None,
    )
