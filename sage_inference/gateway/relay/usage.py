"""What an engine says a request took, found in the bytes of its answer."""

from __future__ import annotations

import re

from sage_inference.engines.answer import Piece
from sage_inference.types import Usage

# A text can't hold this: in JSON its quotes would stand behind backslashes.
_MARK = b'"usage":'
# As vLLM writes it: one match instead of three searches.
_USUAL = re.compile(
    rb'"usage": ?\{"prompt_tokens": ?(\d+), ?"total_tokens": ?\d+, ?"completion_tokens": ?(\d+)'
)
# OpenAI's names; those of /v1/responses and /v1/messages beside them.
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens": ?(\d+)')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens": ?(\d+)')
_CACHED = re.compile(rb'"cached_tokens": ?(\d+)')


def telling(piece: Piece) -> bytes:
    """What of a last piece tells its usage, to be kept for ``reported``: all of it could be long."""
    assert isinstance(piece, bytes)
    start = piece.rfind(_MARK)
    return piece[start:] if start >= 0 else b""


def reported(piece: bytes) -> Usage | None:
    """The last usage in a piece of an answer; None where there is none, or one cut off."""
    start = piece.rfind(_MARK)
    if start < 0 or piece.find(b"}", start) < 0:
        return None
    cached = _CACHED.search(piece, start) if piece.find(b"cached_tokens", start) > 0 else None
    held = int(cached[1]) if cached else None
    usual = _USUAL.match(piece, start)
    if usual:
        return Usage(int(usual[1]), int(usual[2]), held)
    prompt = _PROMPT.search(piece, start)
    output = _OUTPUT.search(piece, start)
    return Usage(int(prompt[1]), int(output[1]) if output else 0, held) if prompt else None
