"""Hugging Face's client, for chat and for what TEI serves at its root."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from tests.clients.wishes import DIMENSION, HELLO, LLM, TEXTS

CLIENT = "huggingface_hub"


def test_chat(client: Any) -> None:
    assert client.chat_completion(HELLO, model=LLM, max_tokens=5).choices[0].message.content


def test_stream(client: Any) -> None:
    pieces = list(client.chat_completion(HELLO, model=LLM, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)


def test_async(client: Any) -> None:
    async def answered() -> Any:
        async with import_module("huggingface_hub").AsyncInferenceClient(
            base_url=client.model, api_key="none"
        ) as other:
            return await other.chat_completion(HELLO, model=LLM)

    assert asyncio.run(answered()).choices[0].message.content


def test_feature_extraction(client: Any) -> None:
    assert client.feature_extraction("hello").shape == (1, DIMENSION)


def test_sentence_similarity(client: Any) -> None:
    same, other, _ = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    assert same > 0.99 > other
