"""What an engine said a request took, found in the last bytes of its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.gateway.relay.usage import reported
from sage_inference.types import Usage

VLLM = Path(__file__).parents[1] / "fixtures/engines/vllm"

SAID = {
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n': Usage(
        7, 3
    ),
    b'{"usage": {"prompt_tokens": 7, "total_tokens": 7}}': Usage(7, 0),
    b'{"usage":{"input_tokens":5,"output_tokens":2}}': Usage(5, 2),
    b'{"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":8}},"x":1}': Usage(
        9, 1, 8
    ),
    b'{"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}, "x": {"y": [1]}}': Usage(
        9, 0, 8
    ),
    b'{\n  "usage": {\n    "prompt_tokens": 9\n  }\n}\n': Usage(9, 0),
    b'{"usage":{"prompt_tokens":9,"details":{"a":{"b":1}}}}': Usage(9, 0),
    b'{"response":{"usage":{"prompt_tokens":9}}}': Usage(9, 0),
    b'1a\r\ndata: {"usage":{"prompt_tokens":9}}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n': Usage(9, 0),
    b'{"usage":null}': None,
    b'{"usage":{"prompt_tokens":9,': None,
    b'{"usage":{"prompt_tokens":"many"}}': None,
    b"": None,
    b'{"usage":{"prompt_tokens":1,"total_tokens":%b1}}' % (b"[" * 2000): None,
    b'{"usage":{"prompt_tokens":1,"details":%b%b}}' % (b'{"a":' * 1, b"[" * 100_000): None,
    b'{"usage":{"prompt_tokens":7,"completion_tokens":3,"x":%b%b}}' % (b"[" * 3000, b"]" * 3000): None,
    b'{"usage":{"prompt_tokens":\xff}}': None,
    b'{"usage":{"prompt_tokens":%b}}' % (b"9" * 5000): None,
}


@pytest.mark.parametrize(("piece", "usage"), SAID.items())
def test_usage_is_read_in_each_protocols_words(piece: bytes, usage: Usage | None) -> None:
    assert reported(piece) == usage


def test_it_is_found_in_what_vllm_answers() -> None:
    text = json.loads((VLLM / "010_chat_plain.json").read_text())["response"]["body"]
    said, body = reported(text.encode()), json.loads(text)
    assert said is not None
    assert said.prompt_tokens == body["usage"]["prompt_tokens"]
    assert said.completion_tokens == body["usage"]["completion_tokens"]


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_harm(noise: bytes) -> None:
    reported(b'"usage":' + noise)
    reported(noise)
