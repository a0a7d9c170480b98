"""Embedding requests of many callers through a real gateway to simulated engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.config.settings import InstanceSettings, SchedulingSettings
from tests.gateway.embeddings.callers import (
    DIMENSION,
    MODEL,
    batcher,
    embed,
    expected,
    meanwhile,
    native,
    vectors_of,
)
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine


@pytest.fixture(scope="module")
def tei() -> Iterator[SimulatedEngine]:
    with simulated_engine("tei", "--speed", "instant", "--dimension", str(DIMENSION)) as engine:
        yield engine


@pytest.fixture
def door(tei: SimulatedEngine) -> Iterator[InProcess]:
    with gateway(InstanceSettings(url=tei.url, name="tei")) as running:
        yield running


def test_a_request_alone_passes_byte_for_byte(tei: SimulatedEngine, door: InProcess) -> None:
    answer = embed(door, input=["hello world", "a"], user="u")
    assert vectors_of(answer) == [expected("hello world"), expected("a")]
    assert tei.requests(1)[0].json() == {"model": MODEL, "input": ["hello world", "a"], "user": "u"}
    assert answer.headers["x-sage-instance"] == "tei"
    assert "x-compute-time" in answer.headers  # the engine's own answer, as it came


def test_many_callers_share_calls_and_each_gets_its_own_vectors(
    tei: SimulatedEngine, door: InProcess
) -> None:
    before = tei.stats()["calls"]
    inputs = [[f"text {caller} {i}" for i in range(1 + caller % 5)] for caller in range(32)]
    forms = ["float", "base64"]
    answers = meanwhile(
        tei,
        door,
        *(
            lambda texts=texts, n=n: embed(door, input=texts, encoding_format=forms[n % 2])
            for n, texts in enumerate(inputs)
        ),
    )
    for n, (texts, answer) in enumerate(zip(inputs, answers, strict=True)):
        assert vectors_of(answer) == [expected(text) for text in texts]
        assert all(isinstance(item["embedding"], [list, str][n % 2]) for item in answer.json()["data"])
    # Two calls before the engine was seen to be at work, then full ones of 32 texts.
    assert tei.stats()["calls"] - before <= 2 + 1 + sum(map(len, inputs)) // 32
    assert batcher(door).counters.texts == sum(map(len, inputs))


def test_usage_of_all_callers_is_what_the_engine_counted(tei: SimulatedEngine, door: InProcess) -> None:
    before = tei.stats()["prompt_tokens"]
    answers = meanwhile(
        tei,
        door,
        *(lambda n=n: embed(door, input=[f"{n} " + "word " * n, f"{n}"]) for n in range(20)),
    )
    used = [answer.json()["usage"] for answer in answers]
    assert all(one["prompt_tokens"] == one["total_tokens"] for one in used)
    assert sum(one["prompt_tokens"] for one in used) == tei.stats()["prompt_tokens"] - before


def test_ten_thousand_texts_in_one_request(tei: SimulatedEngine, door: InProcess) -> None:
    texts = [f"number {i}" for i in range(10000)]
    answer = embed(door, input=texts, encoding_format="base64")
    assert vectors_of(answer) == [expected(text) for text in texts]


def test_native_callers_share_calls_with_openai_callers(door: InProcess, tei: SimulatedEngine) -> None:
    before = tei.stats()["calls"]
    got = meanwhile(
        tei,
        door,
        *(lambda n=n: vectors_of(native(door, inputs=[f"t {n}", "u"])) for n in range(10)),
        *(lambda n=n: vectors_of(embed(door, input=[f"t {n}", "u"])) for n in range(10)),
    )
    assert got == [[expected(f"t {n}"), expected("u")] for n in range(10)] * 2
    assert tei.stats()["calls"] - before <= 3


def test_equal_texts_under_way_are_computed_once(door: InProcess, tei: SimulatedEngine) -> None:
    before = tei.stats()["texts"]
    got = meanwhile(tei, door, *(lambda: vectors_of(embed(door, input=["same", "same"])) for _ in range(10)))
    assert got == [[expected("same")] * 2] * 10
    assert tei.stats()["texts"] - before == 1
    assert batcher(door).counters.shared_texts == 19


def test_who_joins_a_call_that_is_under_way_shares_its_vector(door: InProcess, tei: SimulatedEngine) -> None:
    before = tei.stats()["texts"]
    forms = ("float", "base64")
    calls = [lambda n=n: embed(door, input="same", encoding_format=forms[n % 2]) for n in range(10)]
    answers = meanwhile(tei, door, *calls)
    assert [vectors_of(answer) for answer in answers] == [[expected("same")]] * 10
    assert all(
        isinstance(a.json()["data"][0]["embedding"], (list, str)[n % 2]) for n, a in enumerate(answers)
    )
    assert tei.stats()["texts"] - before == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [({"dimensions": 4}, {"dimensions": 8}), ({"dimensions": 4}, {})],
    ids=["two sizes", "a size and none"],
)
def test_requests_that_differ_in_an_option_never_share_a_call(
    door: InProcess, tei: SimulatedEngine, one: dict[str, Any], other: dict[str, Any]
) -> None:
    calls = [lambda n=n, o=o: embed(door, input=f"{n}", **o) for n in range(6) for o in (one, other)]
    for number, answer in enumerate(meanwhile(tei, door, *calls)):
        size = (one, other)[number % 2].get("dimensions", DIMENSION)
        assert len(answer.json()["data"][0]["embedding"]) == size


@pytest.mark.parametrize(
    "body",
    [
        {"input": []},
        {"input": ["a", 1]},
        {"input": "x", "encoding_format": "hex"},
        {"input": "x", "a_field_of_tomorrow": 1},
    ],
    ids=["no text", "a mixed list", "an unknown form", "an unknown field"],
)
def test_what_cannot_be_merged_goes_to_the_engine_as_it_is(
    door: InProcess, tei: SimulatedEngine, body: dict[str, Any]
) -> None:
    answer = embed(door, **body)
    with tei.client() as client:
        direct = client.post("/v1/embeddings", json={"model": MODEL, **body})
    assert answer.status_code == direct.status_code
    assert tei.requests(2)[0].json() == {"model": MODEL, **body}
    assert batcher(door).counters.requests == 0


@pytest.mark.parametrize("given", [[5, 6, 7], [[5, 6], [7]], ""], ids=["ids", "lists of ids", "empty"])
def test_other_inputs_answer_as_the_engine_does(door: InProcess, tei: SimulatedEngine, given: Any) -> None:
    answer = embed(door, input=given)
    with tei.client() as client:
        direct = client.post("/v1/embeddings", json={"model": MODEL, "input": given})
    assert answer.status_code == direct.status_code
    if direct.status_code == 200:
        assert answer.json() == direct.json()
    else:
        assert answer.json()["error"]["message"] == direct.json()["message"]


def test_without_merging_each_request_is_its_own_call(tei: SimulatedEngine) -> None:
    settings = SchedulingSettings(enable_embedding_batching=False)
    with gateway(InstanceSettings(url=tei.url, name="tei"), scheduling=settings) as door:
        before = tei.stats()["calls"]
        got = meanwhile(tei, door, *(lambda: vectors_of(embed(door, input="same")) for _ in range(8)))
        assert got == [[expected("same")]] * 8
        assert tei.stats()["calls"] - before == 8


def test_a_cache_answers_what_was_computed_before(tei: SimulatedEngine) -> None:
    settings = SchedulingSettings(embedding_cache_bytes=100_000)
    with gateway(InstanceSettings(url=tei.url, name="tei"), scheduling=settings) as door:
        first = embed(door, input=["kept", "also kept"])
        calls = tei.stats()["calls"]
        again = embed(door, input=["also kept", "kept"])
        assert vectors_of(again) == [expected("also kept"), expected("kept")]
        assert again.json()["usage"] == first.json()["usage"]
        assert tei.stats()["calls"] == calls
