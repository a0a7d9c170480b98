"""Facts about the bytes and headers of an engine's answer that do not depend on its connection."""

from __future__ import annotations

from functools import lru_cache

from sage_inference.wire.message import Header, ResponseHead

KNOWN_HEADS = 512  # heads that are kept


@lru_cache(KNOWN_HEADS)
def shared_head(status: int, headers: tuple[Header, ...]) -> ResponseHead:
    """One object for all answers with the same head, because a thousand streams begin alike."""
    return ResponseHead(status, headers)


def ends_once(data: bytes) -> bool:
    """Whether these last bytes of a message surely end with exactly one empty line, and nothing behind it."""
    if len(data) < 5:
        return data in (b"\n", b"\r\n")  # the line began in bytes that came before
    return data.endswith(b"\r\n\r\n") and data[-5] not in b"\r\n"


def size_of(headers: list[Header]) -> int:
    """Bytes of the headers as lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)
