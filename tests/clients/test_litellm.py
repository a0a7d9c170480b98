"""LiteLLM's SDK. The documented line has the keywords of every call."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from typing import Any

import pytest

from tests.clients.wishes import (
    BEST,
    CITY,
    DIMENSION,
    DOCUMENTS,
    EMBEDDER,
    HELLO,
    LLM,
    QUERY,
    RERANKER,
    TEXTS,
    WEATHER,
)

CLIENT = "litellm"
CHAT: Any = {"model": f"openai/{LLM}", "messages": HELLO}


@pytest.fixture(scope="module")
def litellm(environment: None) -> Any:
    return import_module("litellm")


def test_chat(litellm: Any, client: Any) -> None:
    answer = litellm.completion(**CHAT, **client, max_tokens=5)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 5


def test_stream(litellm: Any, client: Any) -> None:
    pieces = list(litellm.completion(**CHAT, **client, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_async(litellm: Any, client: Any) -> None:
    async def answered() -> Any:
        return await litellm.acompletion(**CHAT, **client)

    assert asyncio.run(answered()).choices[0].message.content


def test_tools(litellm: Any, client: Any) -> None:
    answer = litellm.completion(**CHAT, **client, tools=[WEATHER], tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, set(json.loads(call.function.arguments))) == ("weather", {"city"})


def test_structured_output(litellm: Any, client: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": CITY}}
    answer = litellm.completion(**CHAT, **client, response_format=wanted)
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}


def test_embeddings(litellm: Any, client: Any) -> None:
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=TEXTS, **client)
    assert [len(item["embedding"]) for item in answer.data] == [DIMENSION] * len(TEXTS)


def test_rerank(litellm: Any, client: Any) -> None:
    address = client["api_base"].removesuffix("/v1")
    for provider in ("jina_ai", "cohere", "hosted_vllm"):
        wanted = {"model": f"{provider}/{RERANKER}", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
        found = litellm.rerank(**wanted, api_base=address, api_key="none").results
        assert [len(found), found[0]["index"]] == [2, BEST], provider


def test_anthropic_messages(litellm: Any, client: Any) -> None:
    address = client["api_base"].removesuffix("/v1")
    wanted = {"model": f"anthropic/{LLM}", "messages": HELLO, "max_tokens": 5, "api_key": "none"}
    assert litellm.completion(**wanted, api_base=address).choices[0].message.content
