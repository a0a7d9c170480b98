"""Instances of one model that differ: in the length of their context, or in the routes that they have."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sage_inference.config.settings import InstanceSettings, SchedulingSettings
from sage_inference.control_plane.policies import POLICIES, policy_named
from sage_inference.gateway.api.status import instance_document
from sage_inference.server import RunningGateway
from sage_inference.types import EngineState, ExecutionInstanceType
from tests.support.inprocess import InProcess, gateway
from tests.support.listing import NO_ROUTE, ListingEngine, Reply
from tests.support.replay import FIXTURES

CLIENT = httpx.Client(trust_env=False, verify=False, timeout=20)
CHAT = ["/v1/chat/completions", "/v1/completions", "/tokenize"]
OK: Reply = 200, {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}


def refusal(name: str, own: int) -> Any:
    """A recorded refusal, of an engine whose context has ``own`` tokens."""
    body: str = json.loads((FIXTURES / "vllm" / f"{name}.json").read_text())["response"]["body"]
    return json.loads(body.replace("512", str(own)))


def limited(length: int) -> Callable[[str, dict[str, Any]], Reply]:
    def post(path: str, document: dict[str, Any]) -> Reply:
        prompt = document.get("prompt") or document["messages"][0]["content"]
        tokens = len(prompt) // 4
        if document.get("max_tokens", 1) > length:
            return 400, refusal("037_err_max_tokens_too_big", length)
        if tokens + document.get("max_tokens", 1) > length:
            return 400, refusal("036_err_prompt_too_long", length)
        return OK

    return post


def replica(length: int, **card: Any) -> ListingEngine:
    return ListingEngine(
        "m1", post=limited(length), owner="vllm", routes=CHAT, card={"max_model_len": length, **card}
    )


def ready(g: InProcess) -> None:
    g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))


def instances(*engines: ListingEngine) -> list[InstanceSettings]:
    return [InstanceSettings(url=e.url, name=f"e{n}") for n, e in enumerate(engines)]


def post(g: InProcess, path: str, **document: Any) -> httpx.Response:
    return CLIENT.post(g.url + path, json={"model": "m1"} | document)


def chat(g: InProcess, words: int, **more: Any) -> httpx.Response:
    prompt = {"messages": [{"role": "user", "content": "abc " * words}]}
    return post(g, "/v1/chat/completions", **prompt, **more)


@pytest.mark.parametrize("policy", ["hybrid", "least_loaded", "round_robin"])
def test_what_fits_only_the_larger_context_is_served_there(policy: str) -> None:
    with replica(4096) as a, replica(32768) as b:
        with gateway(*instances(a, b), scheduling=SchedulingSettings(policy=policy)) as g:
            ready(g)
            with ThreadPoolExecutor(6) as many:
                long = list(many.map(lambda _: chat(g, 10_000), range(12)))
                short = list(many.map(lambda _: chat(g, 5, max_tokens=8000), range(8)))
                near = list(many.map(lambda _: chat(g, 4_500), range(4)))
            assert {answer.status_code for answer in long + short + near} == {200}
            assert {answer.headers["x-sage-instance"] for answer in long + short + near} == {"e1"}
            assert {chat(g, 5).headers["x-sage-instance"] for _ in range(12)} >= {
                "e0"
            } or policy != "round_robin"


ROUTES = {
    "/v1/chat/completions": ("max_tokens", "max_completion_tokens", "n_predict"),
    "/v1/completions": ("max_tokens", "n_predict"),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
FIELDS = [(path, field) for path, fields in ROUTES.items() for field in fields]


def strict(length: int) -> ListingEngine:
    """Refuses what does not fit in words that no gateway knows."""

    def answer(path: str, document: dict[str, Any]) -> Reply:
        prompt = document.get("prompt") or document.get("input") or document["messages"][0]["content"]
        asked = max([int(document.get(field) or 0) for fields in ROUTES.values() for field in fields])
        fits = len(prompt) // 4 + asked <= length
        return OK if fits else (400, {"error": {"message": "no", "type": "invalid_request_error"}})

    return ListingEngine("m1", post=answer, owner="vllm", routes=list(ROUTES), card={"max_model_len": length})


def asking(path: str, words: int, **more: Any) -> dict[str, Any]:
    text = "abc " * words
    if path == "/v1/completions":
        return {"prompt": text, **more}
    if path == "/v1/responses":
        return {"input": text, **more}
    return {"messages": [{"role": "user", "content": text}], **more}


def test_an_answer_that_fits_only_the_larger_context_is_asked_for_there_under_every_policy() -> None:
    with strict(4096) as a, strict(32768) as b, gateway(*instances(a, b)) as g:
        ready(g)
        sizes = (5, 8000), (5, "7000"), (3000, 2000), (800, 3400), (2000, 30_000)
        many = [{"max_tokens": 8000}, {}, {"max_tokens": 10}, {"max_tokens": None}]
        with ThreadPoolExecutor(4) as pool:
            for turn, policy in enumerate(POLICIES):
                g.ask(lambda r, name=policy: r.gateway.scheduler.use(policy_named(name)))  # type: ignore[misc]
                a.posts.clear()
                for number, (path, field) in enumerate(FIELDS):
                    words, tokens = sizes[(turn + number) % len(sizes)]
                    assert post(g, path, **asking(path, words, **{field: tokens})).status_code == 200
                assert a.posts == [], policy
                mixed = list(pool.map(lambda asked: chat(g, 400, **asked), many))
                assert {answer.status_code for answer in mixed} == {200}, policy
                assert a.posts or policy not in ("round_robin", "least_loaded")


def test_an_odd_length_of_the_answer_is_the_engines_to_judge() -> None:
    with ListingEngine("m1", post=lambda *_: OK, routes=CHAT, card={"max_model_len": 64}) as a:
        with ListingEngine("m1", post=lambda *_: OK, routes=CHAT, card={"max_model_len": 128}) as b:
            with gateway(*instances(a, b)) as g:
                ready(g)
                odds: list[Any] = [0, -1, 1e300, 10**400, "many", [], {}, True, None, 0.5]
                for odd in odds:
                    assert chat(g, 5, max_tokens=odd).status_code == 200, odd


def test_the_smaller_context_is_asked_where_the_larger_is_down() -> None:
    with strict(4096) as a, strict(32768) as b, gateway(*instances(a, b)) as g:
        ready(g)

        def eject(running: RunningGateway) -> None:
            running.gateway.engines["e1"].instance.state = EngineState.EJECTED
            running.gateway.instances_changed()

        g.ask(eject)
        assert chat(g, 5, max_tokens=8000).status_code == 400
        assert len(a.posts) == 1


def test_bodies_are_read_for_their_answers_length_only_where_it_matters() -> None:
    with strict(4096) as a, strict(4096) as b, strict(32768) as c:
        with gateway(*instances(a, b)) as g:
            ready(g)
            assert not g.ask(lambda r: r.gateway.looks_at_output)
        with gateway(*instances(a, c)) as g:
            ready(g)
            assert g.ask(lambda r: r.gateway.looks_at_output)


def test_what_fits_no_context_gets_the_engines_own_refusal() -> None:
    with replica(4096) as a, replica(32768) as b, gateway(*instances(a, b)) as g:
        ready(g)
        for answer in (chat(g, 40_000), chat(g, 5, max_tokens=40_000)):
            assert answer.status_code == 400
            assert "32768" in answer.json()["error"]["message"]


def test_another_refusal_is_passed_on_from_whoever_gave_it() -> None:
    def bad(path: str, document: dict[str, Any]) -> Reply:
        return 400, refusal("033_err_bad_temperature", 512)

    with replica(4096) as a, replica(32768) as b, gateway(*instances(a, b)) as g:
        ready(g)
        a.posts.clear()
        b.posts.clear()
        for engine in (a, b):
            engine.answer = bad
        assert [chat(g, 5).status_code for _ in range(4)] == [400] * 4
        assert len(a.posts) + len(b.posts) == 4


def test_the_largest_context_is_reported() -> None:
    with replica(4096) as a, replica(32768) as b, gateway(*instances(a, b)) as g:
        ready(g)
        (card,) = CLIENT.get(f"{g.url}/v1/models").json()["data"]
        assert card["max_model_len"] == 32768
        assert (card["type"], card["capabilities"]) == ("chat", ["chat", "completion"])


@pytest.mark.parametrize(
    ("routes", "type_", "kind"),
    [
        (["/v1/embeddings", "/pooling", "/rerank"], "embedding", "embedding"),
        (["/rerank", "/v1/rerank", "/score", "/pooling"], "rerank", "reranker"),
        (["/rerank", "/score", "/classify"], "rerank", "reranker"),
        (["/classify"], "classification", "classifier"),
    ],
)
def test_the_kind_of_a_model_is_reported(routes: list[str], type_: str, kind: str) -> None:
    with ListingEngine("m1", owner="vllm", routes=routes) as engine, gateway(*instances(engine)) as g:
        ready(g)
        (card,) = CLIENT.get(f"{g.url}/v1/models").json()["data"]
        assert card["type"] == type_
        assert g.ask(lambda r: instance_document(r.gateway, r.gateway.engines["e0"])["kind"]) == kind


# An engine that does not report its routes


def having(*routes: str, missing: Reply = NO_ROUTE) -> Callable[[str, dict[str, Any]], Reply]:
    return lambda path, document: (200, {"text": "spoken"}) if path in routes else missing


MISSING: list[Reply] = [
    NO_ROUTE,
    (404, b"404 page not found"),
    (404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}),
    (405, {"detail": "Method Not Allowed"}),
    (501, {"error": {"code": 501, "message": "This server does not support it", "type": "not_supported"}}),
]


def transcribe(g: InProcess) -> httpx.Response:
    return CLIENT.post(
        f"{g.url}/v1/audio/transcriptions", data={"model": "m1"}, files={"file": ("a.wav", b"RIFF")}
    )


@pytest.mark.parametrize("missing", MISSING, ids=["fastapi", "go", "llama.cpp", "405", "501"])
def test_a_route_is_tried_and_then_left_to_those_that_have_it(missing: Reply) -> None:
    speech = "/v1/audio/transcriptions"
    with ListingEngine("m1", post=having(missing=missing), owner="vllm") as a:
        with ListingEngine("m1", post=having(speech), owner="vllm") as b, gateway(*instances(a, b)) as g:
            ready(g)
            assert [transcribe(g).status_code for _ in range(6)] == [200] * 6
            assert len(a.posts) <= 1


def test_a_route_that_no_engine_has_is_the_gateways_own_error() -> None:
    with ListingEngine("m1", post=having("/v1/chat/completions"), owner="vllm") as a:
        with gateway(*instances(a)) as g:
            ready(g)
            for _ in range(2):
                for path, body in (("/classify", {"input": "x"}), ("/v1/embeddings", {"input": "x"})):
                    answer = post(g, path, **body)
                    assert answer.status_code in (404, 501)
                    assert "error" in answer.json(), answer.text
            assert [path for path, _ in a.posts] == ["/classify", "/v1/embeddings"]
            kind = g.ask(lambda r: r.gateway.engines["e0"].instance.instance_type)
            assert kind is ExecutionInstanceType.GENERAL
            assert chat(g, 5).status_code == 200


def test_an_unknown_model_is_no_missing_route() -> None:
    unknown: Reply = 404, {"error": {"message": "The model `m1` does not exist.", "type": "NotFoundError"}}
    with ListingEngine("m1", post=having(missing=unknown), owner="vllm") as a, gateway(*instances(a)) as g:
        ready(g)
        for _ in range(2):
            assert chat(g, 5).json() == unknown[1]
        assert len(a.posts) == 2
