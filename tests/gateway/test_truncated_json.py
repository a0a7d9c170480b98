"""An object that breaks off anywhere is completed to a valid one that has our members."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.gateway.relay.truncated_json import completion, missing_bytes

OURS = b'"error":{"message":"m"},"type":"error"'
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_it_is_completed_wherever_it_is_cut(
    document: dict[str, Any], ascii_: bool, indent: int | None
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_, indent=indent).encode()
    for at in range(len(text)):
        rest = completion(text[:at], OURS)
        assert rest is not None
        whole = json.loads(text[:at] + rest)
        assert (whole["error"], whole["type"]) == ({"message": "m"}, "error")
    assert completion(text, OURS) is None


@pytest.mark.parametrize(
    "text", [b"[DO", b"[1,", b"Hallo", b"}", b'"x', b"{]", b"{,", b"nul", b"\xff", b"{\x00"]
)
def test_what_is_no_begin_of_an_object_is_not_completed(text: bytes) -> None:
    assert completion(text, OURS) is None


@given(st.text(min_size=1), st.integers(0, 3))
def test_a_character_cut_in_its_bytes_is_completed(text: str, cut: int) -> None:
    data = text.encode("utf-8", "ignore") or b"x"
    part = data[: len(data) - cut]
    (part + missing_bytes(part)).decode()


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_without_harm(noise: bytes) -> None:
    completion(noise, OURS)
    completion(b"{" + noise, OURS)
    missing_bytes(noise)
