"""Bytes of a terminal become keys, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.cli.top.keys import KeyReader


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOC\x1b[D", ["up", "down", "right", "left"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1bOF", ["page up", "page down", "home", "end"]),
        (b"\t\x1b[Z\r\x7f\x15\x0c\x04", ["tab", "back tab", "enter", "backspace", "clear", "redraw", "end of input"]),
        ("ä日🙂".encode(), ["ä", "日", "🙂"]),
        (b"a\x1b[1;5Cb", ["a", "b"]),  # Ctrl and an arrow: a key that nothing uses
        (b"\x1b[200~a\x1b[201~", ["a"]),  # pasted
        (b"\x1bxa", ["escape", "x", "a"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\xffa\xc3(", ["a", "("]),
        (b"\x00\x01", []),
    ],
)  # fmt: skip
def test_keys_are_read_in_pieces_of_any_size(typed: bytes, keys: list[str]) -> None:
    for size in (1, 2, 3, len(typed)):
        reader = KeyReader()
        found = [key for at in range(0, len(typed), size) for key in reader.feed(typed[at : at + size])]
        assert found == keys, size
        assert not reader.is_within


def test_a_lone_escape_is_one_when_nothing_follows() -> None:
    reader = KeyReader()
    assert reader.feed(b"\x1b") == []
    assert reader.is_within
    assert reader.flush() == ["escape"]
    assert reader.feed(b"[A") == ["[", "A"]


@given(st.binary(max_size=80))
def test_no_bytes_are_an_error_or_held_for_ever(typed: bytes) -> None:
    reader = KeyReader()
    keys = reader.feed(typed) + reader.flush()
    assert reader.feed(b"q" * 40)[-1] == "q"
    assert all(key.isprintable() for key in keys)
