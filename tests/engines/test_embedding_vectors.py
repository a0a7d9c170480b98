"""Vectors change their form without losing a bit, and answers are matched by index."""

from __future__ import annotations

import base64
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.engines.embeddings.vectors import as_base64, as_floats
from sage_inference.engines.embeddings.wire import BadAnswerError, call_body, read_answer

_FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)


def _coded(numbers: list[float]) -> bytes:
    return b'"%b"' % base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers))


@given(_FLOATS)
def test_numbers_and_base64_are_the_same_float32(numbers: list[float]) -> None:
    printed = as_floats(_coded(numbers))
    assert json.loads(bytes(printed)) == numbers
    assert as_base64(printed) == _coded(numbers)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20))
def test_numbers_are_rounded_to_the_nearest_float32(numbers: list[float]) -> None:
    packed = base64.b64decode(json.loads(bytes(as_base64(json.dumps(numbers).encode()))))
    for got, given_ in zip(struct.unpack(f"<{len(numbers)}f", packed), numbers, strict=True):
        assert math.isclose(got, given_, rel_tol=2**-24, abs_tol=1e-44)


def test_a_number_beyond_float32_is_no_vector() -> None:
    with pytest.raises(ValueError, match="too large"):
        as_base64(b"[1e300]")


def _answer(*items: tuple[int, list[float]]) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in items]
    return json.dumps({"data": data, "model": "m", "usage": {"prompt_tokens": 7}}).encode()


def test_vectors_are_matched_by_index_not_by_place() -> None:
    found = read_answer("/v1/embeddings", _answer((1, [2.0]), (0, [1.0])), (), 2)
    assert [json.loads(bytes(vector)) for vector in found.vectors] == [[1.0], [2.0]]
    assert (found.tokens, found.model) == (7, "m")


@pytest.mark.parametrize(
    "body",
    [
        _answer((0, [1.0])),
        _answer((0, [1.0]), (0, [2.0])),
        _answer((0, [1.0]), (2, [2.0])),
        _answer((0, [1.0]), (-1, [2.0])),
        b'{"data":[{"embedding":1,"index":0},{"embedding":[1],"index":1}]}',
        b'{"data":[{"embedding":null,"index":0},{"embedding":[1],"index":1}]}',
        b'{"error":"no"}',
        b"[[1.0],[2.0]]",
        b"not json",
        b"\xff",
    ],
    ids=["too few", "twice", "beyond", "negative", "number", "null", "error", "native", "text", "bytes"],
)
def test_what_is_no_answer_to_the_call_is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_answer("/v1/embeddings", body, (), 2)


def test_texts_go_into_a_body_as_they_came() -> None:
    texts = [b'"\\u00e9 \\" quoted"', '"é"'.encode(), b"[1, 2]"]
    body = call_body("/v1/embeddings", 'a "model"', texts, (("dimensions", b"8"),), base64=True)
    assert json.loads(body) == {
        "model": 'a "model"',
        "input": ['é " quoted', "é", [1, 2]],
        "encoding_format": "base64",
        "dimensions": 8,
    }
    assert all(text in body for text in texts)
