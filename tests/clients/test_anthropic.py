"""The anthropic SDK for Python."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest

from tests.clients.wishes import HELLO, LLM

CLIENT = "anthropic"
WANTED: Any = {"model": LLM, "messages": HELLO, "max_tokens": 5}


def test_messages(client: Any) -> None:
    answer = client.messages.create(**WANTED)
    assert answer.content[0].text
    assert (answer.usage.output_tokens, answer.stop_reason) == (5, "max_tokens")


def test_stream(client: Any) -> None:
    with client.messages.stream(**WANTED) as stream:
        text = "".join(stream.text_stream)
        assert text == stream.get_final_message().content[0].text != ""


def test_async(client: Any) -> None:
    async def text() -> str:
        async with import_module("anthropic").AsyncAnthropic(
            base_url=client.base_url, api_key="none"
        ) as other:
            async with other.messages.stream(**WANTED) as stream:
                return "".join([piece async for piece in stream.text_stream])

    assert asyncio.run(text())


def test_count_tokens(client: Any) -> None:
    assert client.messages.count_tokens(model=LLM, messages=HELLO).input_tokens > 0


def test_errors(client: Any) -> None:
    with pytest.raises(import_module("anthropic").NotFoundError, match=LLM) as refused:
        client.messages.create(**{**WANTED, "model": "absent"})
    assert refused.value.body["error"]["type"] == "not_found_error"
