"""Watching engines loads no model, and notices soon which models they have and lack."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import HealthSettings, InstanceSettings
from sage_inference.gateway import fleet
from sage_inference.types import EngineState
from tests.support.inprocess import ADMIN, InProcess, gateway
from tests.support.listing import ListingEngine, vectors

QUICK = HealthSettings(interval_s=0.05, timeout_s=1)
CLIENT = httpx.Client(
    trust_env=False, verify=False, timeout=10
)  # one: to make a client takes longer than a request
OLLAMA = ("llama3:latest", "qwen3:8b", "nomic:latest")


def auto(*engines: ListingEngine, **known: Any) -> list[InstanceSettings]:
    return [InstanceSettings(url=e.url, name=f"e{n}", **known) for n, e in enumerate(engines)]


def ready(g: InProcess, count: int) -> None:
    g.until(lambda r: sum(e.instance.state is EngineState.READY for e in r.gateway.engines.values()) == count)


def embed(g: InProcess, model: str) -> httpx.Response:
    body = {"model": model, "input": "x"}
    return CLIENT.post(f"{g.url}/v1/embeddings", json=body)


def chat(g: InProcess, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return CLIENT.post(f"{g.url}/v1/chat/completions", json=body)


def looks(engine: ListingEngine, times: int) -> None:
    for _ in range(times):
        assert engine.listed.acquire(timeout=10)


@pytest.mark.parametrize(
    "told", [{}, {"kind": "mixed"}, {"kind": "embedding"}, {"kind": "llm"}, {"engine": "vllm"}]
)
def test_watching_asks_for_no_vectors_of_models_that_may_be_chat_models(
    told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REFRESH_S", 0.1)
    with (
        ListingEngine(*OLLAMA) as a,
        ListingEngine(*OLLAMA) as b,
        gateway(*auto(a, b, **told), health=QUICK) as g,
    ):
        ready(g, 2)
        looks(a, 4)
        looks(b, 4)
        assert a.posts == b.posts == []


def test_vectors_that_were_asked_for_are_compared_before_a_second_instance_serves_them() -> None:
    post = vectors(1, 2, of=["nomic:latest"])
    with ListingEngine(*OLLAMA, post=post) as a, ListingEngine(*OLLAMA, post=post) as b:
        with gateway(*auto(a, b), health=QUICK) as g:
            ready(g, 2)
            assert embed(g, "nomic:latest").headers["x-sage-instance"] == "e0"
            g.until(lambda r: len(r.gateway.registry.group("nomic:latest", "/v1/embeddings")) == 2)
            assert {model for _, model in a.posts + b.posts} == {"nomic:latest"}
            compared = len(b.posts)
            assert compared == 1
            served = {embed(g, "nomic:latest").headers["x-sage-instance"] for _ in range(8)}
            assert served == {"e0", "e1"}


def test_vectors_that_differ_are_never_served_beside_each_other() -> None:
    with ListingEngine(*OLLAMA, post=vectors(1, 0)) as a, ListingEngine(*OLLAMA, post=vectors(0, 1)) as b:
        with gateway(*auto(a, b), health=QUICK) as g:
            ready(g, 2)
            found = [embed(g, "nomic:latest") for _ in range(4)]
            g.until(lambda r: r.gateway.engines["e1"].differs)
            found += [embed(g, "nomic:latest") for _ in range(4)]
            assert {tuple(one.json()["data"][0]["embedding"]) for one in found} == {(1, 0)}
            assert chat(g, "qwen3:8b").status_code == 200


def test_an_instance_without_vectors_of_a_model_leaves_them_to_the_other() -> None:
    has_none, has = vectors(1, of=["x"]), vectors(1, 2)
    with ListingEngine(*OLLAMA, post=has_none) as a, ListingEngine(*OLLAMA, post=has) as b:
        with gateway(*auto(a, b), health=QUICK) as g:
            ready(g, 2)
            embed(g, "nomic:latest")
            g.until(
                lambda r: r.gateway.registry.group("nomic:latest", "/v1/embeddings")[0].instance_id == "e1"
            )
            assert embed(g, "nomic:latest").status_code == 200
            asked = len(a.posts)
            assert [embed(g, "nomic:latest").status_code for _ in range(5)] == [200] * 5
            assert len(a.posts) == asked


@pytest.mark.parametrize(
    "known",
    [
        {"card": {"capabilities": ["embed"]}},
        {"card": {"type": "embedding"}},
        {"owner": "vllm", "routes": ["/v1/embeddings", "/pooling"]},
    ],
)
def test_models_known_to_embed_are_compared_before_any_request(known: dict[str, Any]) -> None:
    a, b = ListingEngine("m", post=vectors(1, 0), **known), ListingEngine("m", post=vectors(0, 1), **known)
    with a, b, gateway(*auto(a, b), health=QUICK) as g:
        g.until(lambda r: any(e.differs for e in r.gateway.engines.values()))


def test_a_new_model_is_served_soon_after_it_was_asked_for() -> None:
    with ListingEngine("base", post=vectors(1)) as a, gateway(*auto(a), health=HealthSettings()) as g:
        ready(g, 1)
        a.models.append("lora")
        began = time.monotonic()
        while chat(g, "lora").status_code == 404:
            assert time.monotonic() - began < 5
            time.sleep(0.1)


def test_requests_for_unknown_models_cause_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LOOK_AGAIN_S", 0.5)
    with ListingEngine("base") as a, gateway(*auto(a), health=HealthSettings()) as g:
        ready(g, 1)
        before, began = a.gets.count("/v1/models"), time.monotonic()
        for number in range(40):
            assert chat(g, f"unknown-{number}").status_code == 404
        looked = a.gets.count("/v1/models") - before
        assert looked <= 1 + (time.monotonic() - began) / 0.5
        assert a.posts == []


def test_a_reload_looks_at_engines_anew() -> None:
    with ListingEngine("base") as a, gateway(*auto(a), health=HealthSettings()) as g:
        ready(g, 1)
        a.models.append("lora")
        assert CLIENT.post(f"{g.url}/admin/reload", headers=ADMIN).status_code == 200
        g.until(lambda r: "lora" in r.gateway.engines["e0"].instance.models, 5)


def test_a_model_that_its_engine_does_not_have_any_more_disappears() -> None:
    gone = 404, {"error": {"message": "The model `lora` does not exist.", "code": 404}}

    def post(path: str, document: dict[str, Any]) -> tuple[int, Any]:
        return gone if document.get("model") == "lora" else vectors(1)(path, document)

    with ListingEngine("base", "lora", post=post) as a, gateway(*auto(a), health=HealthSettings()) as g:
        ready(g, 1)
        a.models.remove("lora")
        assert chat(g, "lora").status_code == 404
        g.until(lambda r: "lora" not in r.gateway.engines["e0"].instance.models, 5)
        listed = CLIENT.get(f"{g.url}/v1/models").json()["data"]
        assert [card["id"] for card in listed] == ["base"]


def test_a_name_without_a_tag_means_latest_where_the_engine_is_ollama() -> None:
    asked: list[str] = []

    def post(path: str, document: dict[str, Any]) -> tuple[int, Any]:
        asked.append(document["model"])
        return vectors(1)(path, document)

    with ListingEngine(*OLLAMA, post=post) as a, gateway(*auto(a), health=QUICK) as g:
        ready(g, 1)
        assert chat(g, "llama3").status_code == 200
        assert embed(g, "nomic").status_code == 200
        assert asked == ["llama3:latest", "nomic:latest"]
        assert chat(g, "qwen3").status_code == 404


@pytest.mark.parametrize(("owner", "version"), [("me", {"version": "0.9"}), ("me", None)])
def test_tags_are_those_of_an_ollama_alone(owner: str, version: dict[str, str] | None) -> None:
    gets = {} if version is None else {"/api/version": version}
    with ListingEngine("m:latest", post=vectors(1), owner=owner, gets=gets) as a:
        with gateway(*auto(a), health=QUICK) as g:
            ready(g, 1)
            assert chat(g, "m").status_code == (404 if version is None else 200)


def test_an_engine_without_v1_is_found_and_asked_there() -> None:
    capable = {"capabilities": ["embed"]}
    with ListingEngine("m", post=vectors(1, 2), owner="infinity", card=capable, under="") as a:
        with gateway(*auto(a), health=QUICK) as g:
            ready(g, 1)
            assert embed(g, "m").status_code == 200
            assert {path for path, _ in a.posts} == {"/embeddings"}
