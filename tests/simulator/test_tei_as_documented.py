"""The simulated TEI answers in the form that TEI's source gives its answers."""

from __future__ import annotations

import base64
import json
import struct

import httpx
import pytest

from tests.simulator import shapes
from tests.support.simulators import SimulatedEngine, simulated_engine

# These need another server or more than one request; each has its own test below.
_APART = ("034", "035", "036", "037", "039", "040", "041", "042")
NAMES = [name for name in shapes.names("tei", "0") if not name.startswith(_APART)]
WORK_HEADERS = (
    "x-compute-type", "x-compute-time", "x-compute-characters", "x-compute-tokens",
    "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time",
)  # fmt: skip


def check(name: str, answer: httpx.Response) -> None:
    response = shapes.recorded("tei", name)["response"]
    assert answer.status_code == response["status"], answer.text
    assert answer.headers.get("content-type") == shapes.header(response, "content-type")
    for header in WORK_HEADERS:
        assert (header in answer.headers) == (shapes.header(response, header) is not None), header
    if response["status"] >= 400 or not response["body"]:
        assert answer.text == response["body"]
        return
    given, wanted = answer.json(), json.loads(response["body"])
    if name == "002_info":
        wanted["docker_label"] = "sage-simulator"  # the one thing that has to tell it from a real one
    assert shapes.shape(given) == shapes.shape(wanted)
    assert shapes.key_order(given) == shapes.key_order(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_embedder_answers_as_documented(native: httpx.Client, name: str) -> None:
    check(name, shapes.send(native, shapes.recorded("tei", name)["request"]))


@pytest.mark.parametrize(
    ("kind", "names"),
    [("classifier", ("040_predict_single", "041_predict_batch")), ("reranker", ("042_rerank",))],
)
def test_other_kinds_of_model_answer_as_documented(kind: str, names: tuple[str, ...]) -> None:
    with simulated_engine("tei", "--model-type", kind, "--speed", "instant") as engine:
        with engine.client() as client:
            assert list(client.get("/info").json()["model_type"]) == [kind]
            for name in names:
                answer = shapes.send(client, shapes.recorded("tei", name)["request"])
                check(name, answer)
                ranked = answer.json()[0] if isinstance(answer.json()[0], list) else answer.json()
                scores = [one["score"] for one in ranked]
                assert scores == sorted(scores, reverse=True)


def test_info_says_that_it_is_simulated(native: httpx.Client) -> None:
    info = native.get("/info").json()
    assert (info["version"], info["docker_label"]) == ("1.9.3+simulated", "sage-simulator")


@pytest.mark.parametrize(("version", "status"), [("1.9.3", 422), ("1.8.3", 413)])
def test_too_long_text_is_refused_where_truncation_is_off(version: str, status: int) -> None:
    text = "hello " * 697 + "x"
    args = ("--engine-version", version, "--no-auto-truncate", "--speed", "instant")
    with simulated_engine("tei", *args) as engine, engine.client() as client:
        answer = client.post("/embed", json={"inputs": ["fine", text]})
        cut = client.post("/embed", json={"inputs": text, "truncate": True})
    message = "Input validation error: `inputs` must have less than 512 tokens. Given: 700"
    assert (answer.status_code, answer.json()) == (status, {"error": message, "error_type": "Validation"})
    assert (cut.status_code, cut.headers["x-compute-tokens"]) == (200, "512")


def test_texts_beyond_the_permits_are_refused_as_a_whole() -> None:
    with simulated_engine("tei", "--max-concurrent-requests", "3") as engine, engine.client() as client:
        for name, path, key in (
            ("035_err_overloaded", "/embed", "inputs"),
            ("036_err_overloaded_openai", "/v1/embeddings", "input"),
        ):
            check(name, client.post(path, json={key: ["a", "b", "c", "d"]}))
        assert client.post("/embed", json={"inputs": ["a", "b", "c"]}).status_code == 200
        assert 'te_request_failure{err="overloaded"} 2.0' in client.get("/metrics").text


def test_unhealthy_engine_says_so(tei: SimulatedEngine, native: httpx.Client) -> None:
    tei.faults(unhealthy=True)
    try:
        check("037_err_unhealthy", native.get("/health"))
    finally:
        tei.heal()
    assert native.get("/health").status_code == 200


def test_key_is_asked_for_but_not_for_health_and_metrics() -> None:
    with simulated_engine("tei", "--api-key", "k", "--speed", "instant") as engine, engine.client() as client:
        answer = client.post("/embed", json={"inputs": "x"})
        check("039_err_auth", answer)
        assert "www-authenticate" not in answer.headers
        assert client.get("/info").status_code == 401
        for path in ("/health", "/", "/ping", "/metrics"):
            assert client.get(path).status_code == 200
        key = {"Authorization": "Bearer k"}
        assert client.post("/embed", json={"inputs": "x"}, headers=key).status_code == 200


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"inputs": 5}', "application/json", 422),
        (b'{"inputs": ["a", 1]}', "application/json", 422),
        (b'{"inputs": "x"}', "text/plain", 415),
        (b'{"inputs": "' + b"x" * 2_000_000 + b'"}', "application/json", 413),
    ],
    ids=["not-json", "number", "mixed", "content-type", "too-large"],
)
def test_what_the_framework_refuses_is_plain_text(
    native: httpx.Client, content: bytes, content_type: str, status: int
) -> None:
    answer = native.post("/embed", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")


def test_all_forms_of_a_text_give_one_vector(native: httpx.Client) -> None:
    (tokens,) = native.post("/tokenize", json={"inputs": "hello world"}).json()
    ids = [one["id"] for one in tokens]
    (plain,) = native.post("/embed", json={"inputs": "hello world"}).json()
    assert native.post("/embed", json={"inputs": ids}).json() == [plain]
    assert native.post("/embed", json={"inputs": [ids, ids]}).json() == [plain, plain]
    encoded = native.post("/v1/embeddings", json={"input": "hello world", "encoding_format": "base64"})
    packed = base64.b64decode(encoded.json()["data"][0]["embedding"])
    assert list(struct.unpack("<384f", packed)) == plain


def test_there_is_no_model_list_and_no_v1_rerank(native: httpx.Client) -> None:
    assert native.get("/v1/models").status_code == 404
    assert native.post("/v1/rerank", json={}).status_code == 404
    wrong = native.get("/embed")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
