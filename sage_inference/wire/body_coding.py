"""Decode the body of an engine's answer that the gateway itself reads."""

from __future__ import annotations

from sage_inference.wire import content_coding
from sage_inference.wire.content_coding import CodingError, UnknownCodingError, codings_in
from sage_inference.wire.message import ResponseHead

__all__ = ["CodingError", "UnknownCodingError", "coding_of", "decoded", "uncoded"]


def coding_of(answer: ResponseHead) -> bytes:
    """The content coding of an answer's body in lower case; empty where it has none."""
    for name, value in answer.headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return value.strip().lower()
    return b""


def uncoded(answer: ResponseHead) -> ResponseHead:
    """The same head for the decoded body."""
    return ResponseHead(
        answer.status, [header for header in answer.headers if header[0] != b"content-encoding"]
    )


def decoded(coding: bytes, body: bytes, most: int) -> bytes:
    """The body without its ``coding``. Raises ``CodingError``, also for more than ``most`` bytes."""
    try:
        return content_coding.decoded(codings_in((coding,)), body, most)
    except UnknownCodingError as error:
        message = f'answered with the content coding "{_shown(coding)}", which nobody asked for'
        raise UnknownCodingError(error.coding, message) from None
    except CodingError as error:
        raise CodingError(f"answered with a body that {error}") from None


def _shown(coding: bytes) -> str:
    return coding[:40].decode("latin-1")
