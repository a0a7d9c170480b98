"""TEI's root route, as Hugging Face's clients ask it: the body and the models decide what is meant."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings
from sage_inference.types import EngineState
from tests.support.inprocess import InProcess, gateway
from tests.support.rogue import Answer, RogueEngine, Wire, ok
from tests.support.tei import FakeTEI, refusal

CLIENT = httpx.Client(trust_env=False, timeout=20)


def embed(wire: Wire) -> None:
    """Answers either route with a vector a text, which holds the text's length."""
    asked = json.loads(wire.body)
    given = asked.get("inputs", asked.get("input"))
    texts = [given] if isinstance(given, str) else given
    vectors = [[float(len(text)), 0.5] for text in texts]
    if b"POST /v1/embeddings" in wire.head:
        data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        ok(json.dumps({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1}}))(wire)
    elif b"POST /embed" in wire.head:
        ok(json.dumps(vectors), "x-compute-tokens: 1")(wire)
    else:
        ok("{}", status="404 Not Found")(wire)


def asked_at(engine: RogueEngine) -> list[str]:
    return [request.split()[1].decode() for request in engine.requests]


def instances(*engines: RogueEngine) -> list[InstanceSettings]:
    return [InstanceSettings(url=engine.url, name=f"e{place}") for place, engine in enumerate(engines)]


def ready(g: InProcess) -> InProcess:
    g.until(lambda r: all(e.instance.state is EngineState.READY for e in r.gateway.engines.values()))
    return g


def ask(g: InProcess, body: Any, path: str = "/", **headers: str) -> httpx.Response:
    return CLIENT.post(g.url + path, json=body, headers=headers)


def test_texts_are_embedded_as_by_embed() -> None:
    with FakeTEI(embed, kind="embedding") as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert ask(g, {"inputs": "abc"}).json() == [[3.0, 0.5]]
        assert ask(g, {"inputs": ["a", "bb"], "normalize": False, "truncate": True}).json() == [
            [1.0, 0.5],
            [2.0, 0.5],
        ]
        many = ["x" * size for size in range(1, 101)]
        assert [vector[0] for vector in ask(g, {"inputs": many}).json()] == list(range(1, 101))
        assert ask(g, {"inputs": "abc"}, "/?x=1").json() == [[3.0, 0.5]]
        zipped = gzip.compress(b'{"inputs":"abcd"}')
        answer = CLIENT.post(f"{g.url}/", content=zipped, headers={"content-encoding": "gzip"})
        assert answer.json() == [[4.0, 0.5]]
        assert set(asked_at(engine)) <= {"/embed", "/embed?x=1", "/v1/embeddings"}


def test_the_root_page_is_still_there() -> None:
    with FakeTEI(embed, kind="embedding") as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert CLIENT.get(f"{g.url}/").json()["name"] == "sage-inference"
        assert CLIENT.head(f"{g.url}/").status_code == 200
        wrong = CLIENT.put(f"{g.url}/")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_sentence_and_others_are_compared_byte_for_byte() -> None:
    body = b'{ "inputs": {"source_sentence": "a", "sentences": ["b", "c"]}, "parameters": {} }'
    with FakeTEI(ok("[0.5,0.25]"), kind="embedding") as engine, gateway(*instances(engine)) as g:
        ready(g)
        answer = CLIENT.post(f"{g.url}/", content=body, headers={"content-type": "application/json"})
        assert answer.content == b"[0.5,0.25]"
        assert engine.requests[0].endswith(b"\r\n\r\n" + body)
        assert asked_at(engine) == ["/similarity"]


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("classifier", {"inputs": "good"}, "/predict"),
        ("classifier", {"inputs": [["good"], ["a", "b"]]}, "/predict"),
        ("reranker", {"query": "q", "texts": ["a"]}, "/rerank"),
        ("reranker", {"inputs": "good"}, "/predict"),
    ],
)
def test_each_kind_of_model_does_what_it_does_at_its_own_root(kind: str, body: Any, path: str) -> None:
    with FakeTEI(ok("[1]"), kind=kind) as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert ask(g, body).content == b"[1]"
        assert asked_at(engine) == [path]


def test_a_sparse_model_embeds_sparsely() -> None:
    info: dict[str, Any] = {"model_type": {"embedding": {"pooling": "splade"}}}
    with FakeTEI(ok("[1]"), kind="embedding", **info) as engine, gateway(*instances(engine)) as g:
        ready(g)
        assert ask(g, {"inputs": "a"}).content == b"[1]"
        assert asked_at(engine) == ["/embed_sparse"]
        assert ask(g, {"inputs": "a"}, "/embed").status_code == 501


def test_the_body_and_its_model_choose_among_several() -> None:
    with (
        FakeTEI(embed, model="e", kind="embedding") as embedder,
        FakeTEI(ok("[2]"), model="r") as reranker,
        FakeTEI(ok("[3]"), model="c", kind="classifier") as classifier,
        RogueEngine(ok("{}"), routes=["/v1/chat/completions"]) as llm,
        gateway(*instances(reranker, classifier, embedder, llm), aliases={"small": "c"}) as g,
    ):
        ready(g)
        assert ask(g, {"inputs": "abc"}).json() == [[3.0, 0.5]]
        assert ask(g, {"query": "q", "texts": ["a"]}).content == b"[2]"
        assert ask(g, {"inputs": [["a", "b"]], "model": "c"}).content == b"[3]"
        assert ask(g, {"inputs": "abc", "model": "small"}).content == b"[3]"
        assert ask(g, {"inputs": "abc", "model": "e"}).json() == [[3.0, 0.5]]
        assert ask(g, {"inputs": "abc", "model": "x"}).status_code == 404


def test_what_is_wrong_is_reported() -> None:
    empty: Answer = refusal("`inputs` cannot be empty", "Empty", "400 Bad Request")
    with FakeTEI(empty, kind="embedding") as engine, gateway(*instances(engine)) as g:
        ready(g)
        refused = ask(g, {"inputs": ""})
        assert (refused.status_code, refused.json()["error"]) == (400, "`inputs` cannot be empty")
        for bad in (b"", b"{", b"[]", b"\xff", b'{"texts":', b'{"model":3}', b"[" * 5000, b'{"input":"x"}'):
            assert CLIENT.post(f"{g.url}/", content=bad).status_code == 400
        assert len(engine.requests) == 1
    with RogueEngine(ok(), routes=["/v1/chat/completions"]) as llm, gateway(*instances(llm)) as g:
        ready(g)
        assert ask(g, {"inputs": "a"}).status_code == 501


def test_the_root_route_needs_a_key_as_others_do() -> None:
    with FakeTEI(embed, kind="embedding") as engine:
        with gateway(*instances(engine), api_keys=(ApiKeySettings(key=Secret("k")),)) as g:
            ready(g)
            assert ask(g, {"inputs": "a"}).status_code == 401
            assert ask(g, {"inputs": "a"}, authorization="Bearer k").json() == [[1.0, 0.5]]
