"""Compressed bodies for the fuzz: good, nested, broken and made to cost much; and an independent reader of them."""

from __future__ import annotations

import gzip
import importlib
import struct
import sys
import zlib
from collections.abc import Callable

from sage_inference.wire.content_coding import readable
from tests.support.codings import raw_deflate, zstd

MEMBER = 200  # bytes of a body that is cut into members
HAS_ZSTD = "zstd" in readable()


def empty_blocks(count: int) -> bytes:
    """Dynamic deflate blocks without a byte, of 11 bytes each: nothing costs more to read."""
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    bits = [0, 0, 1] + [0] * 10 + _bits(len(order) - 4, 4)
    for symbol in order:
        bits += [1, 0, 0] if symbol in (1, 18) else [0, 0, 0]
    for repeat in (
        138,
        118,
    ):  # lengths of 0; then the one code that a block needs, its end's, and one for distances
        bits += [1, *_bits(repeat - 11, 7)]
    unit = [*bits, 0, 0, 0] * 8
    packed = bytes(sum(bit << n for n, bit in enumerate(unit[at : at + 8])) for at in range(0, len(unit), 8))
    return packed * (count // 8)


def _bits(value: int, count: int) -> list[int]:
    return [value >> n & 1 for n in range(count)]


def _members(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def encoded(body: bytes) -> bytes:
        return b"".join(encode(body[at : at + MEMBER]) for at in range(0, len(body), MEMBER))

    return encoded


_Coding = tuple[str, Callable[[bytes], bytes]]  # Content-Encoding, and what makes the body
_ALL: dict[str, _Coding] = {
    "": ("", bytes),
    "gzip": ("gzip", lambda body: gzip.compress(body, 6, mtime=0)),
    "fast gzip": ("x-gzip", lambda body: gzip.compress(body, 1, mtime=0)),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "stored": ("gzip", lambda body: gzip.compress(body, 0, mtime=0)),
    "zstd": ("zstd", zstd),
    "gzip in gzip": ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body, mtime=0), mtime=0)),
    "zstd in gzip": ("zstd, gzip", lambda body: gzip.compress(zstd(body), mtime=0)),
    "gzip in zstd": ("gzip, zstd", lambda body: zstd(gzip.compress(body, mtime=0))),
    "members": ("gzip", _members(lambda body: gzip.compress(body, mtime=0))),
    "frames": ("zstd", _members(zstd)),
    "empty members": ("gzip", lambda body: gzip.compress(b"", mtime=0) * (len(body) // 20) + gzip.compress(body)),
    "empty frames": ("zstd", lambda body: zstd(b"") * (len(body) // 9) + zstd(body)),
    "skipped frames": ("zstd", lambda body: struct.pack("<II", 0x184D2A50, 0) * (len(body) // 8) + zstd(body)),
    "empty blocks": ("deflate", lambda body: empty_blocks(len(body) // 11) + raw_deflate(body)),
    "empty stored blocks": ("deflate", lambda body: b"\0\0\0\xff\xff" * (len(body) // 5) + raw_deflate(body)),
    "empty blocks in gzip": ("deflate, gzip", lambda body: gzip.compress(empty_blocks(len(body)) + raw_deflate(body))),
    "cut": ("gzip", lambda body: gzip.compress(body)[:-1]),
    "followed": ("gzip", lambda body: gzip.compress(body) + body),
    "plain": ("gzip", bytes),
    "three": ("gzip, gzip, gzip", bytes),
    "foreign": ("br", bytes),
    "identity": ("identity", bytes),
}  # fmt: skip
CODINGS = {name: made for name, made in _ALL.items() if HAS_ZSTD or ("zstd" not in made[0])}


def plain(header: bytes, body: bytes) -> bytes | None:
    """What the body is without the codings of ``header``, read by Python's own functions; None for none."""
    named = [name.strip() for name in header.lower().split(b",")]
    codings = [name for name in named if name not in (b"", b"identity")]
    if not body:
        return body
    try:
        for coding in reversed(codings):
            body = _READERS[coding](body)
    except Exception:  # each has errors of its own
        return None
    return body


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error:
        return zlib.decompress(body, -15)


def _zstd_read(body: bytes) -> bytes:
    module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    read: bytes = module.decompress(body)
    return read


_READERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.decompress,
    b"x-gzip": gzip.decompress,
    b"deflate": _inflated,
    b"zstd": _zstd_read,
}
