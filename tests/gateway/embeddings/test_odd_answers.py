"""An answer that cannot be read, or a vector that cannot take the asked form, concerns one caller alone."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.embeddings.odd import (
    BAD,
    Asked,
    House,
    Write,
    as_json,
    good,
    listed,
    odd_house,
    vector,
    with_bad,
)
from tests.support.codings import needs_zstd

NULLS = [None, None, None]
THREE_BYTES = base64.b64encode(b"abc").decode()


@pytest.fixture(scope="module")
def only_house() -> Iterator[House]:
    with odd_house() as house:
        yield house


@pytest.fixture
def house(only_house: House) -> House:
    only_house.engine.reset()
    return only_house


def _mixed(count: int = 9) -> list[Asked]:
    return [Asked([f"good {n}"], base64=n % 2 == 0) for n in range(count)]


def test_null_numbers_are_nan_to_those_who_want_base64(house: House) -> None:
    house.engine.write = with_bad(NULLS)
    asked = [*good(base64=True), Asked([BAD], base64=True)]
    replies = house.ask(asked)
    for one, reply in zip(asked, replies, strict=True):
        one.check(reply)
    packed = base64.b64decode(json.loads(replies[-1].body)["data"][0]["embedding"])
    assert packed == struct.pack("<3f", *[float("nan")] * 3)


# What a vector is instead, whether the engine knows base64, how the bad text's caller wants it, what it gets.
VECTORS = {
    "nulls for base64 among floats": (NULLS, False, True, 200),
    "nulls for floats among base64": (NULLS, False, False, 200),
    "one null": ([1.0, None, 2.0], False, True, 200),
    "too large for float32": ([1e39], False, True, 502),
    "too large for double": ([10**400], False, True, 502),
    "three bytes": (THREE_BYTES, True, False, 502),
    "no base64": ("€", True, False, 502),
    "base64 with an escaped slash": ("AAAA/w==", True, False, 200),
    "strings": (["1", "2"], False, True, 502),
    "booleans": ([True], False, True, 502),
    "vectors of vectors": ([[1.0], [2.0]], False, True, 502),
    "an object in it": ([{}], False, True, 502),
    "empty": ([], False, True, 200),
}


@pytest.mark.parametrize(("bad", "knows_base64", "wants", "status"), VECTORS.values(), ids=VECTORS.keys())
def test_a_vector_that_cannot_take_the_asked_form_fails_its_caller_alone(
    house: House, bad: Any, knows_base64: bool, wants: bool, status: int
) -> None:
    house.engine.write = with_bad(bad, knows_base64=knows_base64)
    asked = [*_mixed(), Asked([BAD], base64=wants)]
    *others, reply = house.ask(asked)
    for one, other in zip(asked, others, strict=False):
        one.check(other)
    assert reply.status == status, reply
    if status == 502:
        assert "e0 answered with a vector" in reply.error["message"]


@pytest.mark.parametrize("wants_base64", [True, False], ids=["base64", "float"])
def test_a_caller_of_many_texts_learns_which_one_is_bad(house: House, wants_base64: bool) -> None:
    bad = [1e39] if wants_base64 else THREE_BYTES
    house.engine.write = lambda texts, _: listed(
        [bad if text == BAD else as_json(vector(text), not wants_base64) for text in texts]
    )
    many = Asked([f"text {n}" for n in range(59)] + [BAD], base64=wants_base64)
    others = [Asked(["good"], base64=not wants_base64), Asked(["other"], native=True)]
    reply, *rest = house.ask([many, *others])
    assert reply.status == 502
    assert "(text 59)" in reply.error["message"]
    for one, other in zip(others, rest, strict=True):
        one.check(other)


def test_a_caller_of_many_texts_gets_nan_for_the_bad_one(house: House) -> None:
    house.engine.write = with_bad(NULLS)
    many = Asked([f"text {n}" for n in range(59)] + [BAD], base64=True)
    many.check(house.ask([many])[0])


def _nan(texts: list[str], _: bool) -> bytes:
    return with_bad([float("nan")])(texts, False)


def _infinity(texts: list[str], _: bool) -> bytes:
    return with_bad([float("-inf")])(texts, False)


def _deep(texts: list[str], _: bool) -> bytes:
    body = with_bad("deep")(texts, False)
    return body.replace(b'"deep"', b"[" * 100_000 + b"]" * 100_000)


def _one_missing(texts: list[str], _: bool) -> bytes:
    return listed([vector(text) for text in texts if text != BAD])


def _doubled_index(texts: list[str], _: bool) -> bytes:
    body = listed([vector(text) for text in texts])
    return body.replace(b'"index": 1,', b'"index": 0,') if BAD in texts else body


def _cut_off(texts: list[str], _: bool) -> bytes:
    body = listed([vector(text) for text in texts])
    return body[: len(body) // 2] if BAD in texts else body


def _no_utf8(texts: list[str], _: bool) -> bytes:
    body = listed([vector(text) for text in texts])
    return body.replace(b'"list"', b'"\xff\xfe"').replace(b"data", b"\xff") if BAD in texts else body


def _nothing(texts: list[str], _: bool) -> bytes:
    return b"" if BAD in texts else listed([vector(text) for text in texts])


def _an_error(texts: list[str], _: bool) -> bytes:
    return b'{"error":"no"}' if BAD in texts else listed([vector(text) for text in texts])


ANSWERS = {
    "NaN": _nan,
    "-Infinity": _infinity,
    "null instead of a vector": with_bad(None),
    "a number instead of a vector": with_bad(1.5),
    "an object instead of a vector": with_bad({}),
    "nested too deep": _deep,
    "one missing": _one_missing,
    "an index twice": _doubled_index,
    "cut off": _cut_off,
    "no UTF-8": _no_utf8,
    "nothing": _nothing,
    "an error with 200": _an_error,
}


KINDS: dict[str, Asked] = {
    "one text": Asked([BAD]),
    "two texts": Asked([BAD, "too"]),
    "base64": Asked([BAD], base64=True),
    "/embed": Asked([BAD], native=True),
}


@pytest.mark.parametrize("write", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_cannot_be_read_fails_the_bad_texts_caller_alone(
    house: House, kind: str, write: Write
) -> None:
    house.engine.write = write
    others = [*good(8), Asked(["a", "b"]), Asked(["c"], native=True)]
    reply, *rest = house.ask([Asked(["first"]), *others, KINDS[kind]])[::-1]
    for one, other in zip(others, rest[:-1][::-1], strict=True):
        one.check(other)
    assert reply.status in (200, 502), reply
    if reply.status == 502:
        assert "e0 answered" in reply.error["message"]
    assert len(house.engine.calls) <= 3 + 2 * len(others)


@pytest.mark.parametrize(
    "odd",
    [
        {"model": 5},
        {"usage": []},
        {"usage": {"prompt_tokens": "many"}},
        {"usage": {"prompt_tokens": -3}},
        {"usage": {"prompt_tokens": 10**30}},
        {"model": None, "usage": None},
    ],
    ids=str,
)
def test_vectors_are_of_use_without_a_sound_model_and_usage(house: House, odd: dict[str, Any]) -> None:
    house.engine.write = lambda texts, _: listed([vector(text) for text in texts], **odd)
    asked = _mixed()
    replies = house.ask(asked)
    for one, reply in zip(asked, replies, strict=True):
        one.check(reply)
    assert 0 <= json.loads(replies[-1].body)["usage"]["prompt_tokens"] < 1000  # of a merged call


def test_an_engine_that_answers_nothing_but_garbage_is_not_asked_without_end(house: House) -> None:
    house.engine.write = lambda texts, _: b"garbage"
    replies = house.ask(good(40))
    assert {reply.status for reply in replies} <= {200, 502}
    assert len(house.engine.calls) <= 40
    house.engine.calls.clear()
    house.ask(good(40))
    assert len(house.engine.calls) <= 5
    house.engine.write = with_bad(None)
    asked = [*good(10), Asked([BAD])]
    for one, reply in zip(asked[:-1], house.ask(asked), strict=False):
        if reply.status != 502:  # a good answer, and it is halved again
            one.check(reply)


@pytest.mark.parametrize(
    "coding",
    [
        "gzip",
        "x-gzip",
        "GZIP",
        "deflate",
        "identity",
        pytest.param("zstd", marks=needs_zstd),
        "gzip, deflate",
    ],
)
@pytest.mark.parametrize(
    "asked", [good(10), [Asked([f"t {n}" for n in range(60)])], _mixed(11)], ids=["ten", "60 texts", "mixed"]
)
def test_an_engine_that_compresses_unasked_is_read(house: House, coding: str, asked: list[Asked]) -> None:
    house.engine.coding = coding
    replies = house.ask(asked)
    for one, reply in zip(asked, replies, strict=True):
        one.check(reply)
    assert "content-encoding" not in replies[-1].headers
    for request in house.engine.requests:
        assert request.count(b"\r\naccept-encoding: identity\r\n") == 1


@pytest.mark.parametrize("coding", ["br", "snappy", "gzip, br", "gzip, gzip, gzip", "nonsense"])
def test_any_other_coding_is_named(house: House, coding: str) -> None:
    house.engine.coding = coding
    replies = house.ask(good(10))
    failed = [reply for reply in replies if reply.status == 502]
    assert len(failed) >= 8
    for reply in failed:
        assert f'the content coding "{coding}"' in reply.error["message"]
    assert len(house.engine.calls) <= 3


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_is_not_unfolded(house: House, coding: str) -> None:
    bomb = b" " * (60 << 20)
    house.engine.write = lambda texts, _: bomb if BAD in texts else listed([vector(text) for text in texts])
    house.engine.coding = coding
    asked = [*good(6), Asked([BAD, "too"]), *good(3, base64=True)]
    replies = house.ask(asked)
    for one, reply in zip(asked, replies, strict=True):
        if BAD not in one.texts:
            one.check(reply)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "identity"])
def test_a_compressed_refusal_is_read_and_fails_its_own_caller_alone(house: House, coding: str) -> None:
    words = b'{"message":"too bad","code":400,"type":"invalid"}'
    house.engine.write = lambda texts, _: words if BAD in texts else listed([vector(text) for text in texts])
    house.engine.refuses, house.engine.coding = True, coding
    asked = [*good(9, base64=True), Asked([BAD])]
    replies = house.ask(asked)
    for one, other in zip(asked[:-1], replies, strict=False):
        one.check(other)
    assert replies[-1].status == 400
    assert "content-encoding" not in replies[-1].headers
    assert replies[-1].error["message"] == "too bad"
