"""What is read of a body that needs mending is what its engine reads, but for what was mended."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from sage_inference.gateway.relay.response_ids import ids_in
from sage_inference.requests.lenient import decoded
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.rerank import read_request
from tests.support.cpu import cpu_time

TEXTS = [
    r"C:\\dir\\ud800",
    r"a\\",
    r"\"NaN\"",
    r"\\\"NaN",
    r"NaN",
    r"-Infinity, NaN",
    r"\",NaN,\"",
    r"[NaN]",
    r"\u005c\\u0022NaN",
    r"a__b \u0000 0.0",
    r"\ud83d\ude00",
]
CAUSES = [r'"\ud800"', r'"a\\\udc00\\"', "NaN", "[-Infinity,NaN]", '{"NaN":Infinity}']


def read(body: bytes) -> Any:
    return decoded(msgspec.json.decode, body)


def other_fields(body: bytes) -> Any:
    """All but ``x``, which was mended."""
    fields = decoded(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode, body)
    return {name: json.loads(bytes(raw)) for name, raw in fields.items() if name != "x"}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_beside_what_is_mended_stay_as_they_are(text: str, cause: str) -> None:
    for body in (f'{{"x":{cause},"{text}":["{text}"]}}', f'{{"{text}":["{text}"],"x":{cause}}}'):
        expected = json.loads(body)
        del expected["x"]
        assert other_fields(body.encode()) == expected


@pytest.mark.parametrize("cause", CAUSES)
def test_documents_to_rank_are_the_callers(cause: str) -> None:
    body = b'{"query":"q","documents":["C:\\\\NaN","\\"Infinity\\""],"x":%b}' % cause.encode()
    asked = read_request("/v1/rerank", body)
    assert asked is not None
    assert [json.loads(text) for text in asked.texts] == ["C:\\NaN", '"Infinity"']
    assert asked.documents == asked.texts


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("own", ["resp_NaN", "resp_Infinity", "a\\\\b", "NaN"])
def test_a_responses_id_is_read_as_its_engine_reads_it(own: str, cause: str) -> None:
    body = f'{{"previous_response_id":"{own}","request_id":"{own}","x":{cause}}}'
    expected = json.loads(body)["request_id"]
    assert ids_in(body.encode()) == (expected, expected)


def test_numbers_that_only_python_writes() -> None:
    found = decoded(
        msgspec.json.Decoder(dict[str, msgspec.Raw]).decode, b'{"a":NaN,"b":-Infinity,"c": Infinity }'
    )
    assert {name: bytes(raw) for name, raw in found.items()} == {
        "a": b"0.0",
        "b": b"-1e999999",
        "c": b"1e999999",
    }
    assert read(b'[{"NaN":NaN},"\\\\",NaN]') == [{"NaN": 0.0}, "\\", 0.0]


@pytest.mark.parametrize("body", [b'["\\ud800",\0]', b'["\\ud800\0_"]', b"[NaN\0']", b'["NaN', b"[NaNNaN]"])
def test_what_is_no_json_stays_none(body: bytes) -> None:
    with pytest.raises(Rejection):
        read(body)


@pytest.mark.parametrize("unit", [b'"NaN",', b"NaN,", b'"\\"",', b"\\\\", b'\\"', b"Infinity"])
def test_mending_costs_little_whatever_the_sender_chooses(unit: bytes) -> None:
    whole = unit.endswith(b",")
    filled = unit * ((8 << 20) // len(unit))
    body = b'["\\ud800",NaN,%b1]' % filled if whole else b'["\\ud800",NaN,"%b"]' % filled
    with cpu_time() as spent, suppress(Rejection):
        read(body)
    assert spent.seconds < 1.5
