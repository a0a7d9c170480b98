"""What is read from answers: tokens, moments, faults; wherever the network cuts them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.bench.answer import Plain, Refused, Streamed

RECORDED = Path(__file__).parents[1] / "fixtures" / "engines" / "vllm"
TRICKY = [
    '"content":"x"',
    "data: [DONE]",
    '"usage":{"completion_tokens":99}',
    '{"error":',
    "\\",
    "\n\n",
    "é",
    '"',
]


def chunk(text: str | None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}], **more})}\n\n".encode()


def usage(tokens: int) -> bytes:
    counts = {"prompt_tokens": 7, "total_tokens": 7 + tokens, "completion_tokens": tokens}
    return f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def fed(data: bytes, cuts: list[int] | None = None) -> Streamed:
    """All of ``data``, a second after a second."""
    reading = Streamed()
    ends = [0, *sorted(cut % len(data) for cut in cuts or []), len(data)]
    for moment, (start, end) in enumerate(pairwise(ends)):
        reading.feed(data[start:end], float(moment))
    return reading


@given(
    texts=st.lists(
        st.one_of(st.sampled_from(TRICKY), st.text(min_size=1, max_size=9)), min_size=1, max_size=8
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    crlf=st.booleans(),
)
def test_every_piece_of_text_counts_once_wherever_the_bytes_are_cut(
    texts: list[str], cuts: list[int], crlf: bool
) -> None:
    data = chunk("") + b"".join(map(chunk, texts)) + chunk(None) + usage(len(texts) + 3) + DONE
    reading = fed(data.replace(b"\n", b"\r\n") if crlf else data, cuts)
    assert len(reading.arrivals) == len(texts)
    assert reading.arrivals == sorted(reading.arrivals)
    assert (reading.prompt_tokens, reading.output_tokens) == (7, len(texts) + 3)
    assert reading.fault() is None


def test_a_piece_of_text_is_as_old_as_the_packet_that_completed_it() -> None:
    data = chunk("a") + chunk("b")
    assert fed(data, [len(chunk("a")) + 5]).arrivals == [0.0, 1.0]
    assert fed(data, [3, 5]).arrivals == [2.0, 2.0]


@pytest.mark.parametrize(
    "name",
    [
        "012_chat_stream_usage",
        "011_chat_stream",
        "051_completion_stream_usage",
        "020_chat_tool_required_stream",
    ],
)
def test_recorded_streams_of_vllm(name: str) -> None:
    answer = json.loads((RECORDED / f"{name}.json").read_text())["response"]
    reading = Streamed()
    for piece in answer["chunks"]:
        reading.feed(piece["data"].encode(), piece["t_ms"] / 1000)
    assert reading.fault() is None
    assert reading.arrivals
    assert (reading.output_tokens is None) == ("usage" not in name)
    if reading.output_tokens is not None:
        assert len(reading.arrivals) <= reading.output_tokens


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (chunk("a"), "incomplete", "[DONE]"),
        (b"", "incomplete", "[DONE]"),
        (chunk("a") + b'data: {"error": {"message": "engine died"}}\n\n', "stream_error", "engine died"),
        (chunk("a") + b'data: {"object":"error","message":"no"}\n\n' + DONE, "stream_error", "no"),
    ],
)
def test_what_is_wrong_with_a_stream(data: bytes, kind: str, words: str) -> None:
    reading = Streamed()
    reading.feed(data, 0.0)
    fault = reading.fault()
    assert fault is not None
    assert fault[0] == kind
    assert words in fault[1]


def test_a_plain_answer_has_its_usage_read_from_its_end() -> None:
    reading = Plain(b"choices")
    text = json.dumps(
        {"choices": [{"text": '"usage":{"completion_tokens":99}'}], "usage": {"completion_tokens": 5}}
    )
    for at in range(len(text)):
        reading.feed(text[at : at + 1].encode(), 0.0)
    assert reading.fault() is None
    assert (reading.prompt_tokens, reading.output_tokens) == (None, 5)


def test_a_plain_answer_to_something_else_is_malformed() -> None:
    reading = Plain(b"embedding")
    reading.feed(b"<html>  hello\n</html>", 0.0)
    assert reading.fault() == ("malformed", "<html> hello </html>")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"no such\\nmodel","code":404}}', "no such model"),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', "Model is overloaded"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"[1]", "[1]"),
        (b"\xff", "\ufffd"),
        (b"x" * 999, "x" * 200 + "…"),
    ],
)
def test_a_refusal_keeps_its_words_in_one_short_line(body: bytes, words: str) -> None:
    reading = Refused(503)
    reading.feed(body, 0.0)
    assert reading.fault() == ("http_503", words)
