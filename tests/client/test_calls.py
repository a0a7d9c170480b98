"""What a call sends, and what it gives back: the same over both clients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sage_inference import InferenceResult
from sage_inference.config.settings import InstanceSettings
from tests.client.faces import Clients
from tests.support.inprocess import gateway
from tests.support.rogue import RogueEngine, ok
from tests.support.simulators import SimulatedEngine

CHAT = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def sent(engine: RogueEngine, at: int = -1) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(engine.requests[at].partition(b"\r\n\r\n")[2])
    return document


def test_chat_returns_the_text_and_sends_only_what_was_given(clients: Clients) -> None:
    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        client = clients(engine.url)
        assert client.chat([{"role": "user", "content": "hi"}]) == "yes"
        assert sent(engine) == {"messages": [{"role": "user", "content": "hi"}]}
        client.chat("hi", temperature=0, max_tokens=None)
        assert sent(engine) == {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def test_fields_nobody_knows_pass_through_and_extra_body_wins(clients: Clients) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        clients(engine.url, model="m").chat(
            "hi", tools=tools, seed=7, logprobs=True, extra_body={"seed": 8, "x": None}
        )
        assert sent(engine) == {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": tools,
            "seed": 8,
            "logprobs": True,
            "x": None,
        }


def test_a_calls_model_goes_before_the_clients(clients: Clients) -> None:
    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        client = clients(engine.url, llm_model="a")
        client.chat("hi")
        assert sent(engine)["model"] == "a"
        client.chat("hi", model="b")
        assert sent(engine)["model"] == "b"


def test_texts_that_have_no_utf8_are_sent_escaped(clients: Clients) -> None:
    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        clients(engine.url).chat("é\ud83d")
        assert sent(engine)["messages"][0]["content"] == "é\ud83d"


def test_the_key_and_extra_headers_are_sent(clients: Clients) -> None:
    with RogueEngine(ok(json.dumps(CHAT))) as engine:
        clients(engine.url, api_key="k").chat("hi", extra_headers={"x-sage-priority": "high"})
        head = engine.requests[-1].lower()
        assert b"authorization: bearer k\r\n" in head
        assert b"x-sage-priority: high\r\n" in head


def test_a_result_has_what_came_beside_the_text(clients: Clients, vllm: SimulatedEngine) -> None:
    result = clients(vllm.url + "/v1").chat("hello", max_tokens=3, return_result=True)
    assert isinstance(result, InferenceResult)
    assert (result.request_type, result.model, result.finish_reason) == ("chat", "simulated-llm", "length")
    assert result.usage["completion_tokens"] == 3
    assert result.request_id.startswith("req-")
    assert result.latency_ms > 0
    assert result.raw["choices"][0]["message"]["content"] == result.text


def test_tool_calls_come_with_a_result(clients: Clients) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {**CHAT, "choices": [{"message": {"content": None, "tool_calls": [call]}}]}
    with RogueEngine(ok(json.dumps(answer))) as engine:
        result = clients(engine.url).chat("hi", return_result=True)
        assert (result.text, result.tool_calls) == ("", [call])


def test_generate_continues_a_text_or_token_ids(clients: Clients, vllm: SimulatedEngine) -> None:
    client = clients(vllm.url)
    assert client.generate("once upon", max_tokens=2)
    assert client.generate([1, 2, 3], max_tokens=2, return_result=True).request_type == "generate"
    with pytest.raises(TypeError, match="one prompt"):
        client.generate(["a", "b"])


def test_a_text_gives_a_vector_and_a_list_gives_a_list(clients: Clients, tei: SimulatedEngine) -> None:
    client = clients(embedding_base_url=tei.url)
    one = client.embed("a")
    assert isinstance(one[0], float)
    assert client.embed(["a"]) == [one]
    assert client.embed([]) == []
    result = client.embed(["a", "b"], return_result=True)
    assert result.model == "simulated-embedding"
    assert result.content[0] == one


def test_arrays_hold_the_same_numbers(clients: Clients, tei: SimulatedEngine) -> None:
    client = clients(embedding_base_url=tei.url)
    array = client.embed(["a", "b"], as_numpy=True)
    assert array.dtype == np.float32
    assert array.tolist() == client.embed(["a", "b"])
    assert client.embed("a", as_numpy=True).shape == (array.shape[1],)
    assert client.embed([], as_numpy=True).shape == (0, 0)
    array[0, 0] = 1.0  # it is the caller's own


def test_a_long_list_is_cut_and_comes_back_in_order(clients: Clients, tei: SimulatedEngine) -> None:
    client = clients(embedding_base_url=tei.url, embedding_batch_size=7, embedding_concurrency=3)
    texts = [f"text {number}" for number in range(50)]
    result = client.embed(texts, return_result=True)
    assert result.content == [client.embed(text) for text in texts]
    assert result.usage["prompt_tokens"] == sum(
        client.embed(text, return_result=True).usage["prompt_tokens"] for text in texts
    )


def test_servers_without_base64_are_understood(clients: Clients) -> None:
    data = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1, 2]}]
    with RogueEngine(ok(json.dumps({"model": "m", "data": data, "usage": {}}))) as engine:
        client = clients(engine.url)
        assert client.embed(["a", "b"]) == [[1.0, 2.0], [3.0, 4.5]]
        assert client.embed(["a", "b"], as_numpy=True).tolist() == [[1.0, 2.0], [3.0, 4.5]]
        assert sent(engine) == {"input": ["a", "b"], "encoding_format": "base64"}


def test_rerank_asks_each_server_as_it_wants_to_be_asked(clients: Clients) -> None:
    listed = json.dumps([{"index": 0, "score": 0.1}, {"index": 1, "score": 0.9}])
    with RogueEngine(ok("{}", status="404 Not Found"), ok(listed)) as tei:
        client = clients(embedding_base_url=tei.url)
        assert [(r.index, r.score) for r in client.rerank("q", ["a", "b"])] == [(1, 0.9), (0, 0.1)]
        client.rerank("q", ["a", "b"])
        paths = [request.split()[1] for request in tei.requests]
        assert paths == [b"/v1/rerank", b"/rerank", b"/rerank"]
        assert sent(tei) == {"query": "q", "texts": ["a", "b"]}
    results = json.dumps({"results": [{"index": 1, "relevance_score": 0.5}]})
    with RogueEngine(ok(results)) as vllm:
        assert clients(vllm.url).rerank("q", ["a", "b"], top_n=1)[0].index == 1
        assert sent(vllm) == {"query": "q", "documents": ["a", "b"], "top_n": 1}


def test_models_are_those_of_all_servers(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    client = clients(llm_base_url=vllm.url, embedding_base_url=tei.url)
    assert client.models() == ["simulated-llm", "simulated-embedding"]


def test_availability_is_what_the_server_does_now(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine
) -> None:
    client = clients(llm_base_url=vllm.url, embedding_base_url=tei.url)
    assert client.is_llm_available()
    assert client.is_embedding_available()
    crossed = clients(llm_base_url=tei.url, embedding_base_url=vllm.url)
    assert not crossed.is_llm_available()
    assert not crossed.is_embedding_available()
    assert crossed.get_status()["llm"] == {"base_url": tei.url, "model": None, "available": False}
    assert not crossed.is_control_plane_mode


def test_the_environment_alone_says_where(
    clients: Clients, vllm: SimulatedEngine, tei: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_CHAT_BASE_URL", vllm.url)
    monkeypatch.setenv("SAGE_CHAT_MODEL", "simulated-llm")
    monkeypatch.setenv("SAGE_EMBEDDING_BASE_URL", f"{tei.url}/v1")
    client = clients()
    assert client.chat("hi", max_tokens=1, return_result=True).model == "simulated-llm"
    assert len(client.embed("hi")) > 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "ftp://x"}, "must be http://host:port"),
        ({"base_url": "http://127.0.0.1:1", "timeout": 0}, "timeout must be at least"),
        ({"base_url": "http://127.0.0.1:1", "max_retries": -1}, "max_retries must not be negative"),
        ({"base_url": "http://127.0.0.1:1", "embedding_batch_size": 0}, "embedding_batch_size must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_argument_is_told_at_once(clients: Clients, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clients(**options)


def test_a_gateway_is_sent_more_texts_at_once_than_an_engine(clients: Clients, tei: SimulatedEngine) -> None:
    texts = [f"text {number}" for number in range(200)]
    with gateway(InstanceSettings(url=tei.url, name="t")) as g:
        direct, through = clients(embedding_base_url=tei.url), clients(g.url)
        assert direct.embed(texts) == through.embed(texts)
        assert g.ask(lambda running: running.gateway.stats.outcomes) == {("/v1/embeddings", 200): 2}
