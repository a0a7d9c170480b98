"""Bytes from bytes: a short program picks a well-formed message and says how to break it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEP = 4  # bytes of the program that one change takes

BITS = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b"\t", b" ", b":", b";", b",", b"=", b'"', b"_", b"-", b"+",
    b"0x", b"0", b"00", b"1", b"5", b"a", b"f", b"F", b"ffffffffffffffff", b"10000000000000000", b"99999999999",
    b"4294967297", b"chunked", b", chunked", b"chunked, ", b"identity", b"gzip", b"close", b"keep-alive",
    b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff", b"\xc3\xa9", b"%0d%0a", b"%00", b"HTTP/1.1", b"HTTP/1.0",
    b"HTTP/2.0", b"#", b"?", b"//", b"@", b"{", b"}", b"\\ud800", b"0\r\n\r\n", b"3\r\nabc\r\n", b"x" * 300,
)  # fmt: skip

HEADERS = (
    b"Content-Length: 0", b"Content-Length: 1", b"Content-Length: 5", b"Content-Length: +5",
    b"Content-Length: -1", b"Content-Length: 5, 5", b"Content-Length: 0x5", b"Content-Length:", b"Content_Length: 5",
    b"Content-Length : 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding:", b"Transfer_Encoding: chunked",
    b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade", b"Connection: x-a, close",
    b"Connection: content-length", b"Connection: TE", b"Upgrade: h2c", b"Upgrade: websocket", b"HTTP2-Settings: AA",
    b"Expect: 100-continue", b"Expect: 200-ok", b"TE: trailers", b"Trailer: x-a", b"Keep-Alive: timeout=1",
    b"Host: evil.example", b"Host: localhost", b"x-a: b", b" folded", b"\tfolded", b"x-a", b": no-name", b"x a: b",
    b"x-a:b\0c", b"x-a: \xff", b"Proxy-Connection: close", b"x-request-id: 1", b"x-sage-instance: z",
    b"Content-Type: text/event-stream", b"", b"Content-Encoding: gzip", b"Content-Encoding: deflate",
    b"Content-Encoding: zstd", b"Content-Encoding: br", b"Content-Encoding: identity", b"Content-Encoding:",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """Pieces as they arrive, and a last byte of the program for the scenario to use as it likes."""

    pieces: tuple[bytes, ...]
    choice: int

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


def make(program: bytes, seeds: Sequence[bytes]) -> Input:
    """What ``program`` says: which seed, how it arrives, and four bytes for each change."""
    program = program.ljust(3, b"\0")
    data = seeds[program[0] % len(seeds)]
    cuts, choice = program[1], program[2]
    for at in range(3, len(program) - STEP + 1, STEP):
        change, high, low, pick = program[at : at + STEP]
        place = (high << 8 | low) % (len(data) + 1)
        data = _CHANGES[change % len(_CHANGES)](data, place, pick, seeds)
    return Input(_cut(data, cuts), choice)


def _cut(data: bytes, how: int) -> tuple[bytes, ...]:
    """Half of the time whole, else in pieces of one size, from single bytes up."""
    if how < 128:
        return (data,)
    size = 1 if how < 140 else how - 139
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def _insert(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    return data[:place] + BITS[pick % len(BITS)] + data[place:]


def _overwrite(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    return data[:place] + bytes([pick]) + data[place + 1 :]


def _delete(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    return data[:place] + data[place + 1 + pick % 8 :]


def _at_mark(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    """Insert right before or after a byte that has a meaning."""
    marks = [match.end() - pick % 2 for match in re.finditer(rb"[:\n \r;,]", data)]
    at = marks[place % len(marks)] if marks else 0
    return data[:at] + BITS[(pick >> 1) % len(BITS)] + data[at:]


def _add_header(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    ends = [match.end() for match in re.finditer(rb"\r\n", data)]
    at = ends[place % min(len(ends), 8)] if ends else 0
    return data[:at] + HEADERS[pick % len(HEADERS)] + b"\r\n" + data[at:]


def _lines(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    """Drop, double, swap or re-end a line."""
    lines = data.split(b"\r\n")
    at = place % len(lines)
    if pick % 4 == 0:
        del lines[at]
    elif pick % 4 == 1:
        lines.insert(at, lines[at])
    elif pick % 4 == 2:
        other = (pick >> 2) % len(lines)
        lines[at], lines[other] = lines[other], lines[at]
    else:
        ending = (b"\n", b"\r", b"\r\r\n", b" \r\n", b"\n\r", b"\r\n ")[(pick >> 2) % 6]
        return b"\r\n".join(lines[: at + 1]) + ending + b"\r\n".join(lines[at + 1 :])
    return b"\r\n".join(lines)


def _digit(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    """Change a number a little: lengths and chunk sizes are numbers."""
    numbers = list(re.finditer(rb"[0-9a-f]+(?=\r\n|;)", data))
    if not numbers:
        return data
    match = numbers[place % len(numbers)]
    changed = b"%x" % max(0, int(match[0][:12], 16) + pick % 7 - 3)
    return data[: match.start()] + changed + data[match.end() :]


def _truncate(data: bytes, place: int, _: int, __: Sequence[bytes]) -> bytes:
    return data[:place]


def _append(data: bytes, _: int, pick: int, seeds: Sequence[bytes]) -> bytes:
    return data + seeds[pick % len(seeds)]


def _case(data: bytes, place: int, pick: int, _: Sequence[bytes]) -> bytes:
    end = place + 1 + pick % 16
    return data[:place] + data[place:end].swapcase() + data[end:]


Change = Callable[[bytes, int, int, Sequence[bytes]], bytes]
_CHANGES: tuple[Change, ...] = (
    _insert, _overwrite, _delete, _at_mark, _at_mark, _add_header, _add_header, _lines, _lines, _digit, _truncate,
    _append, _case,
)  # fmt: skip
