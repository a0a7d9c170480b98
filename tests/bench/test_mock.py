"""What engines and loads agree on: orders, frames and vectors."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from tests.bench.errors import BenchError
from tests.bench.load import wrk
from tests.bench.mock import frames, plain, vectors
from tests.bench.mock.orders import Orders

ORDERS = Orders(chunks=3, gap_us=0, first_ms=7, early_head=1, tag="a1", status=503, reset=1)


def test_orders_arrive_as_they_were_given() -> None:
    assert Orders.of(ORDERS.body("m")) == ORDERS
    assert Orders.of(Orders().body("m")) == Orders()


def test_orders_survive_a_gateway_that_writes_the_body_anew() -> None:
    document = json.loads(ORDERS.body("m"))
    document["max_completion_tokens"] = document.pop("max_tokens")
    assert Orders.of(json.dumps(document, indent=1, sort_keys=True).encode()) == ORDERS


def test_a_body_without_orders_gets_the_usual_stream() -> None:
    assert Orders.of(b'{"model": "m"}') == Orders()


def test_a_stamp_is_found_in_its_chunk() -> None:
    piece = frames.first(frames.stamp(12)) + frames.chunk(frames.stamp(345))
    assert [int(stamp) for stamp in frames.STAMP.findall(piece)] == [12, 345]
    assert frames.STAMP.findall(frames.LAST) == []


def test_a_whole_body_is_events_and_done() -> None:
    events = frames.whole_body("t", 2).split(b"\n\n")
    assert [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] for event in events[:4]] == [
        {"role": "assistant", "content": "t:-1"},
        {"content": "t:0"},
        {"content": "t:1"},
        {"content": ""},
    ]
    assert events[4:] == [b"data: [DONE]", b""]


def test_vectors_are_the_same_in_both_encodings() -> None:
    asked = json.loads(vectors.request("m"))
    floats = json.loads(vectors.respond(json.dumps(asked).encode()))["data"]
    packed = json.loads(vectors.respond(json.dumps(asked | {"encoding_format": "base64"}).encode()))["data"]
    assert len(floats) == len(packed) == vectors.TEXTS
    unpacked = struct.unpack(f"<{vectors.DIMENSIONS}f", base64.b64decode(packed[5]["embedding"]))
    assert unpacked == pytest.approx(floats[5]["embedding"], abs=1e-7)


@pytest.mark.parametrize(
    ("given", "texts"), [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)]
)
def test_there_is_one_vector_a_text(given: object, texts: int) -> None:
    answer = json.loads(vectors.respond(json.dumps({"input": given}).encode()))
    assert [item["index"] for item in answer["data"]] == list(range(texts))


def test_the_plain_answer_is_about_600_bytes() -> None:
    assert 550 < len(plain.ANSWER) < 650


def test_wrks_result_is_read_in_full() -> None:
    line = (
        'RESULT {"requests":50,"duration_us":2000000,"bytes":3000000,'
        '"status":1,"connect":2,"read":3,"write":4,"timeout":5}'
    )
    assert wrk.parse(f"Running 2s test\n{line}\n") == {
        "requests": 50,
        "per_s": 25.0,
        "bytes_per_s": 1_500_000.0,
        "failures": 15,
    }


def test_no_result_of_wrk_is_an_error() -> None:
    with pytest.raises(BenchError, match="no result"):
        wrk.parse("unable to connect")
