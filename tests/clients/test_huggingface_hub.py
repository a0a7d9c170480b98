"""Hugging Face's client, for chat."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from tests.clients.wishes import HELLO, LLM

CLIENT = "huggingface_hub"


def test_chat(client: Any) -> None:
    assert client.chat_completion(HELLO, model=LLM, max_tokens=5).choices[0].message.content


def test_stream(client: Any) -> None:
    pieces = list(client.chat_completion(HELLO, model=LLM, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)


def test_async(client: Any) -> None:
    async def answered() -> Any:
        async with import_module("huggingface_hub").AsyncInferenceClient(
            base_url=client.model or client.base_url, api_key="none"
        ) as other:
            return await other.chat_completion(HELLO, model=LLM)

    assert asyncio.run(answered()).choices[0].message.content
