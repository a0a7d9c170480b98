"""What reading a body costs is bounded by its size, whatever its sender puts into it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from sage_inference.config.settings import LimitSettings
from sage_inference.requests.body import read, with_model
from sage_inference.requests.density import LARGE
from sage_inference.requests.embedding import parse
from sage_inference.requests.output_limits import asked_output
from sage_inference.requests.rejection import Rejection
from sage_inference.requests.routes import ROUTES
from tests.support.cpu import cpu_time

CHAT, SOUND = ROUTES["/v1/chat/completions"], ROUTES["/v1/audio/transcriptions"]
MB = 1_000_000
MOST_S, MOST_S_PER_MB = 0.010, 0.100  # five times what it may be on an idle machine
LIMITS = LimitSettings(max_n=2, max_completion_tokens=100)
PART = b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\n'


def filled(unit: bytes, before: bytes = b'{"model":"m","messages":[],"x":[', after: bytes = b"1]}") -> bytes:
    return before + unit * (MB // len(unit)) + after


def fields(count: int) -> bytes:
    return b'{"messages":[],"model":"m"' + b"".join(b',"%x":1' % number for number in range(count)) + b"}"


BODIES = {
    "empty lists without an end": filled(b"[],", after=b""),
    "empty lists": filled(b"[],"),
    "deep nesting": filled(b"["),
    "nesting below the limit": filled(b"[" * 500 + b"]" * 500 + b","),
    "objects": filled(b'{"":0},'),
    "token ids": filled(b"1,"),
    "a number of a million digits": filled(b"1"),
    "huge exponents": filled(b"1e999999,"),
    "many small texts": filled(b'"",'),
    "blanks": filled(b" "),
    "escapes": filled(b"\\n", b'{"model":"m","messages":["', b'"]}'),
    "pairs": filled(b"\\ud83d\\ude00", b'{"model":"m","messages":["', b'"]}'),
    "half pairs": filled(b"\\ud83d", b'{"model":"m","messages":["', b'"]}'),
    "half a pair behind escapes": filled(b"\\n", b'{"model":"m","messages":["\\ud800a"],"x":["', b'"]}'),
    "half a pair behind lists": filled(b"[],", b'{"model":"m","messages":["\\ud800a"],"x":['),
    "no numbers": filled(b"NaN,"),
    "the same field": filled(b'"messages":1,', b"{", b'"model":"m"}'),
    "the same model": filled(b'"model":"m",', b"{", b'"messages":1}'),
    "different fields": fields(MB // 11),
    "escaped fields": filled(b'"\\u0061":1,', b"{", b'"model":"m","messages":1}'),
    "models within": filled(b'{"model":"m"},', b'{"x":[', b'1],"model":"m","messages":1}'),
    "a long model": filled(b"m", b'{"messages":[],"model":"', b'"}'),
    "a long escaped model": filled(b"\\u00e9", b'{"messages":[],"model":"', b'"}'),
    "a long user": filled(b"u", b'{"model":"m","messages":[],"user":"', b'"}'),
    "n as lists": filled(b"[],", b'{"model":"m","messages":[],"n":['),
    "n as digits": filled(b"1", b'{"model":"m","messages":[],"n":', b"}"),
}
EMBEDDINGS = {
    "token ids": filled(b"1,", b'{"input":['),
    "lists of token ids": filled(b"[1],", b'{"input":[', b"[1]]}"),
    "longer lists of token ids": filled(b"[" + b"1," * 62 + b"1],", b'{"input":[', b"[1]]}"),
    "empty texts": filled(b'"",', b'{"input":[', b'""]}'),
    "texts of a backslash": filled(b'"\\\\",', b'{"input":[', b'""]}'),
    "quotes in a text": filled(b'\\"', b'{"input":["', b'"]}'),
    "a text and numbers": filled(b"1,", b'{"input":["a",'),
    "blanks": filled(b" ", b'{"input":[', b'"a"]}'),
    "no texts": filled(b"{},", b'{"input":['),
    "colons": filled(b":", b'{"input":"', b'"}'),
    "different fields": fields(MB // 11).replace(b"messages", b"input"),
}
PARTS = {
    "heads without an end": filled(b'content-disposition: form-data; name="model"\r\n', b"", b""),
    "one head without an end": filled(b'content-disposition: form-data; name="model"\r\n', b"--x\r\n", b""),
    "a million parts": filled(b"--x\r\na: b\r\n\r\nx\r\n", b"", b""),
    "line breaks": filled(b"\r\n", b"", b""),
    "half delimiters": filled(b"\r\n--", PART, b"\r\n--x--"),
}


def bounded(work: Callable[[], object], size: int) -> None:
    """The best of three: what else runs on the machine must not count."""
    took = []
    for _ in range(3):
        with cpu_time() as spent, suppress(Rejection):
            work()
        took.append(spent.seconds)
        if took[-1] < MOST_S + MOST_S_PER_MB * size / MB:
            return
    pytest.fail(f"{min(took) * 1000:.0f} ms of CPU for {size} bytes")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_no_json_costs_more_than_its_bytes(body: bytes) -> None:
    bounded(lambda: read(CHAT, body), len(body))
    bounded(lambda: read(CHAT, body) and with_model(CHAT, body, "other"), len(body))
    bounded(lambda: asked_output(body, LIMITS), len(body))


@pytest.mark.parametrize("body", EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
def test_no_input_of_embeddings_costs_more_than_its_bytes(body: bytes) -> None:
    bounded(lambda: parse("/v1/embeddings", body), len(body))


@pytest.mark.parametrize("body", PARTS.values(), ids=PARTS.keys())
def test_no_multipart_body_costs_more_than_its_bytes(body: bytes) -> None:
    bounded(lambda: read(SOUND, body), len(body))


@pytest.mark.parametrize("unit", [b"[],", b"1,", b'"":1,', b"\\n", b"    "], ids=str)
def test_a_large_body_that_would_hold_the_event_loop_is_refused(unit: bytes) -> None:
    body = b'{"model":"m","messages":[],"x":"' + unit * (4 * LARGE // len(unit)) + b'"}'
    with pytest.raises(Rejection, match="too many values"):
        read(CHAT, body)


@pytest.mark.parametrize(
    "unit",
    [
        b"It is said, then, that all men are made of: water, salt and hope. ",
        b"iVBORw0KGgoAAAANSUhEUg",
        "é".encode(),
    ],
    ids=["text", "media", "é"],
)
def test_a_large_body_of_text_or_pictures_is_none(unit: bytes) -> None:
    body = b'{"model":"m","messages":["' + unit * (2 * LARGE // len(unit)) + b'"]}'
    assert read(CHAT, body).model == "m"


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{ "x":1.50}', b'{"model":"z", "x":1.50}'),
        (b" {} ", b' {"model":"z"} '),
        (b'{"model":null,"x":{"model":null}}', b'{"model":"z","x":{"model":null}}'),
        (b'{"x":{"model":"m"},"model":"m"}', b'{"x":{"model":"m"},"model":"z"}'),
        (b'{"x":"\\"model\\":\\"m\\"","model" :\n"m","x":1,"x":2}', b'{"x":"\\"model\\":\\"m\\"","model" :\n"z","x":1,"x":2}'),
        (b'{"model":"m","x":["\\ud800"],"t":NaN}', b'{"model":"z","x":["\\ud800"],"t":NaN}'),
    ],
)  # fmt: skip
def test_naming_a_model_changes_no_other_byte(body: bytes, changed: bytes) -> None:
    assert with_model(CHAT, body, "z") == changed


@pytest.mark.parametrize(
    "text", [b"\\ud800", b"\\udc00", b"\\ud83d\\ude00 \\udc00", b"\\ud800\\ud800\\udc00", b"\\\\ud800", b"\\\\\\ud800a"]
)  # fmt: skip
def test_half_a_pair_is_read_wherever_it_stands(text: bytes) -> None:
    for body in (b'{"messages":["%b"],"model":"m"}', b'{"%b":1,"messages":[],"model":"m"}'):
        assert read(CHAT, body % text).model == "m"


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"Infinity"])
def test_numbers_that_only_python_writes_are_read(value: bytes) -> None:
    assert read(CHAT, b'{"messages":[],"model":"m","temperature":%b}' % value).model == "m"


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(CHAT, b'\xef\xbb\xbf{"messages":[],"model":"m"}').model == "m"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"model":"m","messages":' + b"[" * 1_000_000, "nested too deeply"),  # CPython 3.14 reads 100,000
        (b'{"model":"' + b"m" * 1025 + b'","messages":[]}', "length <= 1024"),
        (b'{"model":"m","messages":[],"x":01}', "invalid number"),
        ('{"model":"m","messages":[]}'.encode("utf-16"), "not JSON"),
    ],
)
def test_a_refusal_names_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(Rejection, match=why):
        read(CHAT, body)


@pytest.mark.parametrize(
    "body",
    [
        PART + b"\r\n--y\r\n" * 9 + b'\r\n--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n',
        b'--x\r\nContent-Type: text/plain\r\ncontent-disposition:form-data;name=model\r\n\r\nm\r\n--x--',
        b'\r\n--x\r\nContent-Disposition: form-data; name="model"; a="b"\r\n\r\nm\r\n--x--\r\n',
    ],
)  # fmt: skip
def test_the_model_of_a_form_is_found_and_replaced(body: bytes) -> None:
    assert read(SOUND, body).model == "m"
    assert read(SOUND, with_model(SOUND, body, "other")).model == "other"
