"""The content coding of a body that is read here, undone: gzip and deflate, bounded in size."""

from __future__ import annotations

import zlib

from sage_inference.engines.answer import Answer

_PIECE = 65536  # what is fed at once; the rest behind a member's end is copied, so not all of a long body
_MOST_MEMBERS = 1024  # of a gzip body: each costs time, and an empty one has 20 bytes
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's ``wbits``
_GZIPS = frozenset({b"gzip", b"x-gzip"})


class CodingError(Exception):
    """A body cannot be decoded; the message has the reason."""


class UnknownCodingError(CodingError):
    """It has a coding that nobody asked for, and that is not read here."""


def coding_of(answer: Answer) -> bytes:
    """The content coding of an answer's body in lower case; empty where it has none."""
    for name, value in answer.headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return value.strip().lower()
    return b""


def uncoded(answer: Answer) -> Answer:
    """The same head for the decoded body."""
    return Answer(answer.status, [header for header in answer.headers if header[0] != b"content-encoding"])


def decoded(coding: bytes, body: bytes, most: int) -> bytes:
    """The body without its ``coding``. Raises ``CodingError``, also for more than ``most`` bytes."""
    try:
        if coding in _GZIPS:
            return _inflated(body, _GZIP, most)
        if coding == b"deflate":
            return _deflated(body, most)
    except zlib.error as error:
        raise CodingError(f"answered with a body that is no {_shown(coding)}: {error}") from None
    raise UnknownCodingError(f'answered with the content coding "{_shown(coding)}", which nobody asked for')


def _deflated(body: bytes, most: int) -> bytes:
    """In zlib's format; some servers send the bare one (RFC 9110 section 8.4.1.2)."""
    try:
        return _inflated(body, _ZLIB, most)
    except zlib.error:
        return _inflated(body, _RAW, most)


def _inflated(body: bytes, wbits: int, most: int) -> bytes:
    pieces: list[bytes] = []
    left = most
    members = 1
    inflater = zlib.decompressobj(wbits)
    for start in range(0, len(body), _PIECE):
        data = body[start : start + _PIECE]
        while data:
            if inflater.eof:
                if wbits != _GZIP:
                    raise zlib.error("more bytes behind its end")
                members += 1
                if members > _MOST_MEMBERS:
                    raise CodingError(f"answered with more than {_MOST_MEMBERS} gzip members")
                inflater = zlib.decompressobj(wbits)
            piece = inflater.decompress(data, left + 1)
            left -= len(piece)
            if left < 0:
                raise CodingError(f"answered with more than {most} bytes, compressed")
            pieces.append(piece)
            data = inflater.unconsumed_tail or inflater.unused_data
    if not inflater.eof:
        raise zlib.error("it ends early")
    return b"".join(pieces)


def _shown(coding: bytes) -> str:
    return coding[:40].decode("latin-1")
