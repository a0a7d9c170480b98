"""LangChain's package for OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.clients.table import made
from tests.clients.wishes import CITY, DIMENSION, TEXTS, WEATHER

CLIENT = "langchain-openai"


def test_chat(client: Any) -> None:
    answer = client.invoke("hello")
    assert answer.text
    assert answer.usage_metadata["output_tokens"] > 0


def test_stream(client: Any) -> None:
    pieces = list(client.stream("hello"))
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == client.invoke("hello").text


def test_async(client: Any) -> None:
    async def texts() -> list[str]:
        return [piece.text async for piece in client.astream("hello")]

    assert "".join(asyncio.run(texts()))


def test_tools(client: Any) -> None:
    answer = client.bind_tools([WEATHER], tool_choice="weather").invoke("hello")
    assert [(call["name"], set(call["args"])) for call in answer.tool_calls] == [("weather", {"city"})]


def test_structured_output(client: Any) -> None:
    schema = {**CITY, "title": "weather", "description": "where"}
    for method in ("json_schema", "function_calling"):
        assert set(client.with_structured_output(schema, method=method).invoke("hello")) == {"city"}


def test_embeddings(documented: Callable[[str], str]) -> None:
    client = made(documented("langchain-openai, embeddings"))
    assert [len(vector) for vector in client.embed_documents(TEXTS)] == [DIMENSION] * len(TEXTS)
    assert client.embed_query(TEXTS[0]) == client.embed_documents(TEXTS)[0]
