"""Bodies in the content codings that the gateway reads."""

from __future__ import annotations

import gzip
import importlib
import sys
import zlib
from collections.abc import Callable

import pytest

from sage_inference.wire.content_coding import readable

needs_zstd = pytest.mark.skipif("zstd" not in readable(), reason="this interpreter has no zstd")


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


def zstd(body: bytes) -> bytes:
    module = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    compressed: bytes = module.compress(body)
    return compressed


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstd,
    "identity": bytes,
    "gzip, deflate": lambda body: zlib.compress(gzip.compress(body)),
}
# By the name of a test: the header's value, and what makes the body.
CODED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    **{name: (name, encode) for name, encode in ENCODERS.items()},
    "raw deflate": ("deflate", raw_deflate),
    "two members": ("gzip", lambda body: gzip.compress(body[:40]) + gzip.compress(b"") + gzip.compress(body[40:])),
    "two frames": ("zstd", lambda body: zstd(body[:40]) + zstd(b"") + zstd(body[40:])),
    "upper case": ("GZip", gzip.compress),
    "gzip within gzip": ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    "zstd within gzip": ("zstd, gzip", lambda body: gzip.compress(zstd(body))),
    "list with identity": ("identity, gzip,, ", gzip.compress),
}  # fmt: skip


def cases(*names: str) -> list[object]:
    """The codings of these names, or all, as parameters of a test."""
    return [
        pytest.param(*CODED[name], id=name, marks=[needs_zstd] if "zstd" in CODED[name][0] else [])
        for name in names or CODED
    ]
