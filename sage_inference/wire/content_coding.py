"""Decode the content codings gzip, deflate and zstd, in pieces and with every size bounded (RFC 9110 section 8.4)."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class _Decompressor(Protocol):
        """Decompresses one gzip member, one zstd frame, or a deflate stream."""

        @property
        def eof(self) -> bool: ...

        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


MOST_CODINGS = 2  # per body: clients apply no more, and each costs as much as the body
PIECE = 65536  # most bytes of output at once
# Up to this size a body may have any ratio, because repeated lines and equal texts compress 3000 times.
FREE = 8 << 20
# Above it, no real body exceeds this ratio: 100 copies of one file in zstd have 350, most text has 3 to 20.
MOST_RATIO = 400
# Between two codings, the bytes are bounded too. Otherwise empty blocks, which compress well and cost much to read,
# could use up CPU time without a byte of output.
_FREE_BETWEEN, _RATIO_BETWEEN = 16384, 4
# Bytes of input at once. zlib copies the unused rest at the end of each piece of output and of each member.
_FED = 16384
# Limits on gzip members and zstd frames, because one of 9 bytes costs up to 30 µs.
_FREE_MEMBERS, _BYTES_PER_MEMBER = 64, 1024
# 8 MiB, the largest window that RFC 9659 allows for this use. Without a limit the sender would choose our memory.
_WINDOW_LOG = 23
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's ``wbits``


class CodingError(Exception):
    """A body cannot be decoded. The message has the reason."""


class UnknownCodingError(CodingError):
    """A body has an unsupported ``coding``, or too many codings."""

    def __init__(self, coding: str, message: str = "") -> None:
        super().__init__(message or f'has the content coding "{coding}"')
        self.coding = coding


class TooLongError(CodingError):
    """A body has more bytes than the limit when decoded."""


class TooDenseError(CodingError):
    """A body has a higher compression ratio than any real one."""


def codings_in(values: Iterable[bytes]) -> tuple[bytes, ...]:
    """The codings in the values of Content-Encoding, in the order of their application, without ``identity``."""
    named = (name.strip().lower() for value in values for name in value.split(b","))
    return tuple(name for name in named if name not in (b"", b"identity"))


def readable() -> tuple[str, ...]:
    """The supported codings."""
    return ("gzip", "deflate") if _zstd() is None else ("gzip", "deflate", "zstd")


def decoded(codings: tuple[bytes, ...], body: bytes, most: int) -> bytes:
    """Decode a whole body. Raises ``CodingError``, also if it has more than ``most`` decoded bytes."""
    if not codings:
        return body
    decoder = Decoder(codings, most)
    decoder.feed(body)
    pieces = []
    while piece := decoder.read():
        pieces.append(piece)
    decoder.finish()
    return b"".join(pieces)


class Decoder:
    """Decodes a body: ``feed`` takes its bytes, ``read`` returns the decoded ones. All methods raise ``CodingError``.

    ``codings`` has at least one. The output does not depend on how the input is cut. Each coding puts out at most
    ``most`` bytes.
    """

    def __init__(self, codings: tuple[bytes, ...], most: int) -> None:
        if len(codings) > MOST_CODINGS:
            raise UnknownCodingError(_shown(b", ".join(codings)))
        self._most = most
        self._received = 0
        self._stages = [_stage(coding) for coding in reversed(codings)]
        self._out = [0] * len(codings)

    def feed(self, data: bytes) -> None:
        self._received += len(data)
        self._stages[0].put(data)

    def read(self) -> bytes:
        """Up to ``PIECE`` decoded bytes. Empty if more input is needed, or all was read."""
        return self._read(len(self._stages) - 1)

    def _read(self, stage: int) -> bytes:
        while True:
            piece = self._stages[stage].get(self._received)
            if piece:
                self._count(stage, len(piece))
                return piece
            if not stage:
                return b""
            piece = self._read(stage - 1)
            if not piece:
                return b""
            self._stages[stage].put(piece)

    def _count(self, stage: int, size: int) -> None:
        self._out[stage] = out = self._out[stage] + size
        if out > self._most:
            raise TooLongError(f"has more than {self._most} bytes when decompressed")
        last = stage == len(self._stages) - 1
        free, ratio = (FREE, MOST_RATIO) if last else (_FREE_BETWEEN, _RATIO_BETWEEN)
        if out > free and out > ratio * self._received:
            raise TooDenseError(f"has more than {ratio} times its size when decompressed")

    def finish(self) -> None:
        """Check that the body is complete, after all of it was fed and read.

        An empty body is valid in each coding, because some clients name one for it.
        """
        if self._received:
            for stage in self._stages:
                stage.finish()


class _Stage:
    """One coding of a body. ``make`` returns a decompressor for the next member."""

    def __init__(
        self, name: str, make: Callable[[], _Decompressor], wrong: type[Exception], members: bool
    ) -> None:
        self.name = name
        self._make = make
        self._wrong = wrong
        self._may_follow = members
        self._members = 1
        self._waiting: deque[bytes] = deque()
        self._full = False  # the decompressor may have more output without more input
        self._now = make()

    def put(self, data: bytes) -> None:
        for start in range(0, len(data), _FED):
            self._waiting.append(data[start : start + _FED])

    def get(self, received: int) -> bytes:
        """The next decoded bytes. Empty if the input is used up."""
        while self._waiting or self._full:
            data = self._waiting.popleft() if self._waiting else b""
            if self._now.eof:
                self._next_member(received)
            try:
                piece = self._now.decompress(data, PIECE)
            except self._wrong as error:
                behind = "more bytes follow its end, and are no further member: " if self._members > 1 else ""
                raise self._broken(behind + _reason(error)) from None
            rest = self._now.unused_data if self._now.eof else getattr(self._now, "unconsumed_tail", b"")
            if rest:
                self._waiting.appendleft(rest)
            self._full = len(piece) >= PIECE and not self._now.eof
            if piece:
                return piece
        return b""

    def _next_member(self, received: int) -> None:
        if not self._may_follow:
            raise self._broken("more bytes follow its end")
        self._members += 1
        if self._members > _FREE_MEMBERS + received // _BYTES_PER_MEMBER:
            raise self._broken(f"it has more than {self._members - 1} members, most of them tiny")
        self._now = self._make()

    def finish(self) -> None:
        if not self._now.eof:
            raise self._broken("it ends early")

    def _broken(self, why: str) -> CodingError:
        return CodingError(f"is no valid {self.name}: {why}")


class _Deflate:
    """Deflate in zlib's format, or without it, as some clients send it (RFC 9110 section 8.4.1.2).

    The first two bytes show which of the two it is.
    """

    def __init__(self) -> None:
        self._begin = b""
        self._now: Any = None

    @property
    def eof(self) -> bool:
        return self._now is not None and bool(self._now.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._now.unused_data)

    @property
    def unconsumed_tail(self) -> bytes:
        return b"" if self._now is None else bytes(self._now.unconsumed_tail)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._now is None:
            data = self._begin + data
            if len(data) < 2:
                self._begin = data
                return b""
            wrapped = data[0] & 0x0F == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0
            self._now = zlib.decompressobj(_ZLIB if wrapped else _RAW)
        return bytes(self._now.decompress(data, max_length))


def _stage(coding: bytes) -> _Stage:
    if coding in (b"gzip", b"x-gzip"):
        return _Stage("gzip", lambda: zlib.decompressobj(_GZIP), zlib.error, members=True)
    if coding == b"deflate":
        return _Stage("deflate", _Deflate, zlib.error, members=False)
    zstd = _zstd()
    if coding == b"zstd" and zstd is not None:
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return _Stage(
            "zstd", lambda: _Frame(zstd.ZstdDecompressor(options=options)), zstd.ZstdError, members=True
        )
    raise UnknownCodingError(_shown(coding))


class _Frame:
    """A zstd frame. Its decompressor keeps unused input, which zlib's returns."""

    def __init__(self, now: Any) -> None:
        self._now = now

    @property
    def eof(self) -> bool:
        return bool(self._now.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._now.unused_data)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return bytes(self._now.decompress(data, max_length))


@cache
def _zstd() -> Any:
    """Python's own module from 3.14 on, otherwise the backport. Loaded with the first body; None if not installed."""
    try:
        return importlib.import_module(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        )
    except ImportError:
        return None


def _reason(error: Exception) -> str:
    """The last part of zlib's message, such as "Error -3 while decompressing data: incorrect header check"."""
    return str(error).rpartition(": ")[2] or "it is damaged"


def _shown(coding: bytes) -> str:
    return coding[:40].decode("latin-1")
