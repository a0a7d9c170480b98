"""Content codings undone: however the bytes are cut, however broken they are, and whatever they unfold to."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_inference.wire.content_coding import (
    FREE,
    MOST_RATIO,
    PIECE,
    CodingError,
    Decoder,
    TooDenseError,
    TooLongError,
    UnknownCodingError,
    codings_in,
    decoded,
    readable,
)
from tests.fuzz.codings import empty_blocks
from tests.support.codings import CODED, ENCODERS, cases, needs_zstd, raw_deflate, zstd
from tests.support.cpu import cpu_time

Encode = Callable[[bytes], bytes]
MB = 1 << 20
READ = [name for name in CODED if "zstd" not in CODED[name][0] or "zstd" in readable()]
TEXT = random.Random(1).randbytes(30_000).hex().encode() + b"hello " * 40_000


def codings(header: str) -> tuple[bytes, ...]:
    return codings_in([header.encode()])


def in_pieces(header: str, data: bytes, cuts: list[int], most: int = 8 * MB) -> bytes:
    decoder = Decoder(codings(header), most)
    out = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        decoder.feed(data[begin:end])
        while piece := decoder.read():
            assert len(piece) <= PIECE
            out.append(piece)
    decoder.finish()
    return b"".join(out)


@pytest.mark.parametrize(("header", "encode"), cases())
@pytest.mark.parametrize("body", [b"", b"a", TEXT], ids=["nothing", "a byte", "text"])
def test_each_coding_is_undone(header: str, encode: Encode, body: bytes) -> None:
    assert decoded(codings(header), encode(body), 8 * MB) == body


@given(
    st.sampled_from([name for name in READ if name != "identity"]),
    st.one_of(
        st.binary(max_size=2000), st.builds(bytes.__mul__, st.binary(max_size=20), st.integers(0, 40_000))
    ),
    st.lists(st.integers(0, 1 << 20), max_size=12),
)
@settings(max_examples=100, deadline=None)
@example("gzip", b"", [0, 0])
@example("deflate", b"a", [1])
@example("raw deflate", b"", [1])
def test_any_cut_gives_the_same_body(name: str, body: bytes, cuts: list[int]) -> None:
    header, encode = CODED[name]
    data = encode(body)
    assert in_pieces(header, data, sorted(cut % (len(data) + 1) for cut in cuts)) == body


@pytest.mark.parametrize("name", [name for name in READ if name != "identity"])
def test_byte_by_byte_gives_the_same_body(name: str) -> None:
    header, encode = CODED[name]
    body = b'{"model":"m"}' + b"x" * 200_000
    data = encode(body)
    assert in_pieces(header, data, list(range(1, len(data)))) == body


@given(
    st.sampled_from([name for name in READ if name != "identity"]),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6)), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_a_body_or_a_reason(
    name: str, body: bytes, changes: list[tuple[int, bytes, int]]
) -> None:
    header, encode = CODED[name]
    data = encode(body)
    for at, put, gone in changes:
        data = data[: at % (len(data) + 1)] + put + data[at % (len(data) + 1) + gone :]
    results = []
    for cuts in ([], [len(data) // 2], list(range(1, len(data)))):
        try:
            results.append(in_pieces(header, data, cuts, 10_000))
        except CodingError:
            results.append(b"an error")
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("header", "encode"), [one for one in cases() if one.id != "identity"])  # type: ignore[attr-defined]
def test_what_is_broken_is_named_with_the_reason(header: str, encode: Encode) -> None:
    data = encode(TEXT)
    for broken in (
        data[:-1],
        data[: len(data) // 2],
        data[:1],
        data + b"garbage",
        data + b"\0",
        b"plain text",
    ):
        with pytest.raises(CodingError, match=r"is no valid (gzip|deflate|zstd): .") as caught:
            decoded(codings(header), broken, 8 * MB)
        assert type(caught.value) is CodingError
    with pytest.raises(CodingError, match="ends early"):
        decoded(codings(header), data[:-1], 8 * MB)


def test_a_wrong_check_sum_is_found() -> None:
    data = gzip.compress(TEXT)
    with pytest.raises(CodingError, match="incorrect data check"):
        decoded((b"gzip",), data[:-8] + b"\1\2\3\4" + data[-4:], MB)


@pytest.mark.parametrize(
    "header", ["br", "snappy", "compress", "gzip, br", "br, gzip", "gzip;q=1", "*", "gzip deflate"]
)
def test_any_other_coding_is_named(header: str) -> None:
    with pytest.raises(UnknownCodingError) as caught:
        Decoder(codings(header), MB)
    assert caught.value.coding in header
    assert f'"{caught.value.coding}"' in str(caught.value)


def test_no_more_than_two_codings_are_undone() -> None:
    with pytest.raises(UnknownCodingError, match='"gzip, gzip, gzip"'):
        Decoder(codings("gzip, gzip, gzip"), MB)
    assert codings("Identity, , GZIP, identity") == (b"gzip",)
    assert codings_in([b"gzip", b"zstd "]) == (b"gzip", b"zstd")


@pytest.mark.parametrize(("header", "encode"), [one for one in cases() if one.id != "identity"])  # type: ignore[attr-defined]
def test_no_more_comes_out_than_is_wanted(header: str, encode: Encode) -> None:
    body = TEXT[:200_000]
    assert decoded(codings(header), encode(body), len(body)) == body
    with pytest.raises(TooLongError, match="more than 199999 bytes"):
        decoded(codings(header), encode(body), len(body) - 1)


def bomb(encode: Encode, size: int = 12 * MB) -> bytes:
    return encode(bytes(size))


BOMBS = {
    "gzip": ("gzip", lambda: bomb(gzip.compress)),
    "deflate": ("deflate", lambda: bomb(zlib.compress)),
    "raw deflate": ("deflate", lambda: bomb(raw_deflate)),
    "gzip within gzip": ("gzip, gzip", lambda: gzip.compress(gzip.compress(bytes(12 * MB)) * 40)),
    "many members": ("gzip", lambda: gzip.compress(bytes(9000)) * 2000),
    "bytes behind the first layer": ("gzip, gzip", lambda: gzip.compress(gzip.compress(b"{}") * (1 << 19))),
    "zstd": ("zstd", lambda: bomb(zstd)),
    "zstd within gzip": ("zstd, gzip", lambda: gzip.compress(zstd(bytes(12 * MB)) * 40)),
}


_made = cache(lambda make: make())  # compressing takes much longer than the test


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_zstd if "zstd" in name else ()) for name in BOMBS]
)
@pytest.mark.parametrize("most", [MB, 1 << 40], ids=["1 MB", "no bound"])
def test_a_bomb_is_refused_and_never_in_memory(name: str, most: int) -> None:
    header, make = BOMBS[name]
    data = _made(make)
    bound = min(most, max(FREE, MOST_RATIO * len(data)))
    tracemalloc.start()
    try:
        decoder = Decoder(codings(header), most)
        size = 0
        try:
            for at in range(0, len(data), 65536):
                decoder.feed(data[at : at + 65536])
                while piece := decoder.read():
                    size += len(piece)
            pytest.fail("it was not refused")
        except CodingError:
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size <= bound
    assert peak < 2 * MB


def test_a_small_body_may_have_any_ratio_and_a_large_one_a_real_one() -> None:
    assert len(decoded((b"gzip",), bomb(gzip.compress, FREE), 1 << 40)) == FREE
    with pytest.raises(TooDenseError, match=f"{MOST_RATIO} times"):
        decoded((b"gzip",), bomb(gzip.compress, FREE + 1), 1 << 40)
    source = TEXT[:60_000] + b"\n" + b'{"role":"user","content":"and now?"}' * 20
    assert len(decoded((b"gzip",), gzip.compress(source * 140, 1), 64 * MB)) == 140 * len(source)


@needs_zstd
def test_one_file_a_hundred_times_is_no_bomb() -> None:
    body = TEXT[:100_000] * 100
    assert decoded((b"zstd",), zstd(body), 64 * MB) == body


@needs_zstd
def test_a_window_beyond_that_of_the_web_is_refused_before_it_is_made() -> None:
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([(27 - 10) << 3]) + b"\1\0\0"
    with pytest.raises(CodingError, match="too much memory"):
        decoded((b"zstd",), frame, MB)


@needs_zstd
def test_skippable_frames_are_skipped() -> None:
    frame = struct.pack("<II", 0x184D2A50, 5) + b"notes"
    assert decoded((b"zstd",), frame + zstd(b"body") + frame, MB) == b"body"


def test_a_turn_of_the_dearest_input_takes_a_moment() -> None:
    decoder = Decoder((b"deflate",), MB)
    data = empty_blocks(80_000)[:65536]
    with cpu_time() as spent:
        decoder.feed(data)
        assert not decoder.read()
    assert spent.seconds < 0.5


def test_identity_is_no_coding() -> None:
    assert decoded(codings("identity"), ENCODERS["identity"](b"x"), 1) == b"x"


def test_without_the_module_zstd_is_one_of_the_others() -> None:
    program = """
import sys
sys.modules["backports.zstd"] = sys.modules["compression.zstd"] = None
from sage_inference.wire.content_coding import Decoder, UnknownCodingError, readable
assert readable() == ("gzip", "deflate")
try:
    Decoder((b"zstd",), 1)
except UnknownCodingError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 7


def test_zstd_is_loaded_by_the_first_body_that_needs_it() -> None:
    program = """
import sys
from sage_inference.wire.content_coding import decoded
assert decoded((b"deflate",), b"", 1) == b""
sys.exit(any("zstd" in name for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
