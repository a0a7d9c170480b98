"""A head is found again only where nothing but the digits of its length differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.wire.head_cache import HeadCache

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nA: b\r\n\r\n"


def known(head: bytes = HEAD, length: int = 12) -> HeadCache[str]:
    heads: HeadCache[str] = HeadCache(2)
    assert heads.put(head, length, "it")
    return heads


@pytest.mark.parametrize("digits", [b"0", b"7", b"12", b"999999999999999"])
def test_another_length_is_the_same_head(digits: bytes) -> None:
    data = HEAD.replace(b"12", digits) + b"body"
    assert known().get(data) == ("it", int(digits), len(data) - 4)


@pytest.mark.parametrize(
    "digits", [b"", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", b"1,2", b"\xb2", b"1" * 16]
)
def test_what_is_no_plain_number_is_parsed(digits: bytes) -> None:
    assert known().get(HEAD.replace(b"12", digits) + b"body") is None


@pytest.mark.parametrize(
    "data",
    [
        HEAD[:-1],  # not all of it is here
        HEAD[:-20],
        HEAD[: HEAD.index(b"12") + 1],
        b"",
        HEAD.replace(b"A: b", b"A: c"),
        HEAD.replace(b"Host: h", b"Host: i"),
        HEAD.replace(b"\r\nA: b", b""),
        HEAD.replace(b"A: b", b"Content-Length: 3"),
        HEAD.replace(b"Content-Length", b"Content-length"),
        HEAD.replace(b"Content-Length: 12", b"Content-Length: 1\r2"),
        b"POST / HTTP/1.1\r\nHost: h\r\n\r\n\r\nContent-Length: 12\r\nA: b\r\n\r\n",
    ],
)
def test_any_other_difference_is_parsed(data: bytes) -> None:
    assert known().get(data) is None


def test_a_length_in_the_body_is_none() -> None:
    heads: HeadCache[str] = HeadCache(2)
    assert not heads.put(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nX\r\nContent-Length: 1\r\n\r\n", 1, "it")


def test_a_header_that_ends_like_a_length_is_none() -> None:
    heads: HeadCache[str] = HeadCache(2)
    assert not heads.put(b"GET / HTTP/1.1\r\nX-Content-Length: 1\r\n\r\n", 1, "it")


def test_a_length_that_is_not_the_parsers_is_not_remembered() -> None:
    heads: HeadCache[str] = HeadCache(2)
    assert not heads.put(HEAD, 13, "it")
    assert heads.get(HEAD) is None


def test_only_so_many_are_kept() -> None:
    heads = known()
    for name in (b"i", b"j"):
        assert heads.put(HEAD.replace(b"Host: h", b"Host: " + name), 12, "other")
    assert heads.get(HEAD) is None


@given(st.binary(max_size=80), st.integers(0, len(HEAD)), st.integers(0, len(HEAD)))
def test_whatever_is_recalled_is_the_head_but_for_the_digits(junk: bytes, start: int, end: int) -> None:
    data = HEAD[:start] + junk + HEAD[end:]
    found = known().get(data)
    if found is not None:
        what, length, begin = found
        assert what == "it"
        assert data[:begin] == HEAD.replace(b"12", data[HEAD.index(b"12") : begin - len(b"\r\nA: b\r\n\r\n")])
        assert data[HEAD.index(b"12") :].startswith((b"%d\r" % length, b"0"))
