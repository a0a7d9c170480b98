"""LlamaIndex's packages for servers like OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.clients.table import made
from tests.clients.wishes import DIMENSION, TEXTS

CLIENT = "llama-index"


def _said(text: str) -> Any:
    return [import_module("llama_index.core.llms").ChatMessage(role="user", content=text)]


def test_chat(client: Any) -> None:
    assert client.chat(_said("hello")).message.content


def test_stream(client: Any) -> None:
    pieces = [piece.delta for piece in client.stream_chat(_said("hello"))]
    assert "".join(piece or "" for piece in pieces) == client.chat(_said("hello")).message.content


def test_async(client: Any) -> None:
    async def answered() -> Any:
        return await client.achat(_said("hello"))

    assert asyncio.run(answered()).message.content


def test_completions(client: Any) -> None:
    plain = type(client)(**{**client.model_dump(), "is_chat_model": False, "api_key": "none"})
    assert plain.complete("once").text


def test_tools(client: Any) -> None:
    def weather(city: str) -> str:
        """Return the weather of a city."""
        return city

    tool = import_module("llama_index.core.tools").FunctionTool.from_defaults(weather)
    answer = client.chat_with_tools([tool], user_msg="hello", tool_required=True)
    [call] = client.get_tool_calls_from_response(answer)
    assert (call.tool_name, set(call.tool_kwargs)) == ("weather", {"city"})


def test_embeddings(documented: Callable[[str], str]) -> None:
    client = made(documented("llama-index, embeddings"))
    vectors = client.get_text_embedding_batch(TEXTS)
    assert [len(vector) for vector in vectors] == [DIMENSION] * len(TEXTS)
