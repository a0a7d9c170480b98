"""Clients that rerank, and those that speak TEI's own API, against a simulated TEI behind the gateway."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ApiKeySettings, InstanceSettings
from tests.clients.conftest import Elsewhere
from tests.support.inprocess import InProcess, gateway
from tests.support.simulators import SimulatedEngine, simulated_engine

KEY = "sk-of-a-caller"
RERANKER, EMBEDDER = "bge-reranker", "bge-small"
QUERY = "What is the capital of France?"
TEXTS = [
    "Berlin is in Germany.",
    "Paris is the capital of France.",
    "Cats sleep a lot.",
    "France borders Spain.",
]
MANY = [f"{word} number {place}" for place in range(25) for word in ("Paris", "Berlin", "a cat")]


@pytest.fixture(scope="module")
def reranker() -> Iterator[SimulatedEngine]:
    with simulated_engine(
        "tei", "--model", RERANKER, "--model-type", "reranker", "--speed", "instant"
    ) as one:
        yield one


@pytest.fixture(scope="module")
def served(reranker: SimulatedEngine) -> Iterator[InProcess]:
    with simulated_engine("tei", "--model", EMBEDDER, "--speed", "instant") as embedder:
        engines = [InstanceSettings(url=one.url, name=one.model) for one in (reranker, embedder)]
        with gateway(*engines, api_keys=(ApiKeySettings(key=Secret(KEY)),)) as g:
            g.until(lambda r: all(e.detected for e in r.gateway.engines.values()))
            yield g


@pytest.fixture(scope="module")
def order(reranker: SimulatedEngine) -> list[int]:
    """The places of ``TEXTS``, the best first, as the engine itself has them."""
    with reranker.client() as direct:
        ranks = direct.post("/rerank", json={"query": QUERY, "texts": TEXTS}).json()
    return [rank["index"] for rank in ranks]


def scores(results: list[Any]) -> list[float]:
    return [one["relevance_score"] if isinstance(one, dict) else one.relevance_score for one in results]


def test_coheres_first_client(served: InProcess, order: list[int]) -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.Client(api_key=KEY, base_url=served.url)
    found = client.rerank(model=RERANKER, query=QUERY, documents=TEXTS, top_n=3, return_documents=True)
    assert [one.index for one in found.results] == order[:3]
    assert [one.document.text for one in found.results] == [TEXTS[place] for place in order[:3]]
    assert scores(found.results) == sorted(scores(found.results), reverse=True)
    assert found.id
    assert found.meta.api_version.version == "1"
    objects = [{"text": text, "title": "t"} for text in TEXTS]
    found = client.rerank(model=RERANKER, query=QUERY, documents=objects, return_documents=False)
    assert [one.index for one in found.results] == order
    assert found.results[0].document is None
    titled = [{"title": text, "year": "2020"} for text in TEXTS]
    found = client.rerank(model=RERANKER, query=QUERY, documents=titled, rank_fields=["title"])
    assert [one.index for one in found.results] == order


def test_coheres_second_client(served: InProcess, order: list[int]) -> None:
    cohere = pytest.importorskip("cohere")
    client = cohere.ClientV2(api_key=KEY, base_url=served.url)
    found = client.rerank(model=RERANKER, query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=100)
    assert [one.index for one in found.results] == order[:2]
    assert found.meta.api_version.version == "2"
    assert found.meta.tokens.input_tokens > 0
    assert len(client.rerank(model=RERANKER, query=QUERY, documents=MANY).results) == len(MANY)


@pytest.mark.parametrize("client_class", ["Client", "ClientV2"])
def test_coheres_clients_report_what_is_wrong(served: InProcess, client_class: str) -> None:
    cohere = pytest.importorskip("cohere")
    client = getattr(cohere, client_class)(api_key=KEY, base_url=served.url)
    with pytest.raises(cohere.NotFoundError) as unknown:
        client.rerank(model="nobody", query=QUERY, documents=TEXTS)
    assert RERANKER in unknown.value.body["message"]
    with pytest.raises(cohere.BadRequestError) as empty:
        client.rerank(model=RERANKER, query=QUERY, documents=[])
    assert empty.value.body["message"] == "'documents' is empty"
    with pytest.raises(cohere.BadRequestError) as nothing:
        client.rerank(model=RERANKER, query="", documents=TEXTS)
    assert "cannot be empty" in nothing.value.body["message"]  # the engine's own
    with pytest.raises(cohere.UnauthorizedError):
        getattr(cohere, client_class)(api_key="wrong", base_url=served.url).rerank(
            model=RERANKER, query=QUERY, documents=TEXTS
        )


@pytest.fixture(scope="module")
def litellm() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LITELLM_LOCAL_MODEL_COST_MAP", "True"), ("LITELLM_MODE", "PRODUCTION")):
            patch.setenv(name, value)
        found = pytest.importorskip("litellm")
        found.telemetry = False
        yield found


@pytest.mark.parametrize("provider", ["jina_ai", "cohere", "infinity", "hosted_vllm"])
def test_litellms_rerankers(served: InProcess, order: list[int], litellm: Any, provider: str) -> None:
    asked = {"model": f"{provider}/{RERANKER}", "query": QUERY, "api_base": served.url, "api_key": KEY}
    shows = provider != "infinity"  # whose documents are plain texts
    found = litellm.rerank(**asked, documents=TEXTS, top_n=3, return_documents=shows)
    assert [one["index"] for one in found.results] == order[:3]
    assert scores(found.results) == sorted(scores(found.results), reverse=True)
    if shows:
        assert [one["document"]["text"] for one in found.results] == [TEXTS[place] for place in order[:3]]
    whole = litellm.rerank(**asked, documents=MANY, return_documents=shows)
    assert sorted(one["index"] for one in whole.results) == list(range(len(MANY)))
    with pytest.raises(Exception, match="nobody"):
        litellm.rerank(**{**asked, "model": f"{provider}/nobody"}, documents=TEXTS)


def test_litellms_huggingface_reranker_speaks_teis_own_shape(
    served: InProcess, order: list[int], litellm: Any, elsewhere: Elsewhere
) -> None:
    found = litellm.rerank(
        model=f"huggingface/{RERANKER}", query=QUERY, documents=TEXTS, api_base=served.url, api_key=KEY
    )
    assert [one["index"] for one in found.results] == order
    assert set(elsewhere.seen) == {"huggingface.co"}  # asked for the model's task, and not needed
    elsewhere.seen.clear()


def test_a_client_of_jinas(served: InProcess, order: list[int]) -> None:
    """What langchain's, llama-index's and haystack's classes for Jina send, and Open WebUI's external reranker."""
    with httpx.Client(headers={"authorization": f"Bearer {KEY}", "accept-encoding": "identity"}) as session:
        sent = {"query": QUERY, "documents": TEXTS, "model": RERANKER, "top_n": 2}
        answer = session.post(f"{served.url}/v1/rerank", json=sent).json()
    assert [one["index"] for one in answer["results"]] == order[:2]
    assert [one["document"]["text"] for one in answer["results"]] == [TEXTS[place] for place in order[:2]]
    assert answer["model"] == RERANKER
    assert answer["usage"]["total_tokens"] > 0


@pytest.fixture(scope="module")
def hugging_face(served: InProcess) -> Any:
    found = pytest.importorskip("huggingface_hub")
    return found.InferenceClient(base_url=served.url, api_key=KEY)


def test_hugging_faces_feature_extraction(served: InProcess, hugging_face: Any) -> None:
    pytest.importorskip("numpy")
    for url in (served.url, f"{served.url}/", f"{served.url}/embed"):
        one = hugging_face.feature_extraction("hello", model=url)
        assert one.shape == (1, 384)
        assert math.isclose(float((one**2).sum()), 1, rel_tol=1e-4)
        assert hugging_face.feature_extraction(MANY, model=url).shape == (len(MANY), 384)
    plain = hugging_face.feature_extraction("hello", normalize=False, truncate=True)
    assert float((plain**2).sum()) > 2


def test_hugging_faces_sentence_similarity(served: InProcess, hugging_face: Any) -> None:
    for url in (served.url, f"{served.url}/similarity"):
        near, far = hugging_face.sentence_similarity("a cat", other_sentences=["a cat", "bonds"], model=url)
        assert near > 0.99
        assert far < near


def test_hugging_faces_client_reports_what_is_wrong(hugging_face: Any) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    with pytest.raises(errors.HfHubHTTPError, match="cannot be empty"):
        hugging_face.feature_extraction("")
