"""The openai SDK for Python."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from typing import Any

import pytest

from tests.clients.wishes import CITY, DIMENSION, EMBEDDER, HELLO, LLM, RERANKER, TEXTS, WEATHER

CLIENT = "openai"


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(model=LLM, messages=HELLO, max_completion_tokens=5)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 5


def test_stream(client: Any) -> None:
    options = {"include_usage": True}
    pieces = list(
        client.chat.completions.create(model=LLM, messages=HELLO, stream=True, stream_options=options)
    )
    whole = client.chat.completions.create(model=LLM, messages=HELLO)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_async(client: Any) -> None:
    async def texts() -> list[str]:
        async with import_module("openai").AsyncOpenAI(
            base_url=client.base_url, api_key=client.api_key
        ) as asynchronous:
            stream = await asynchronous.chat.completions.create(model=LLM, messages=HELLO, stream=True)
            return [piece.choices[0].delta.content or "" async for piece in stream]

    assert "".join(asyncio.run(texts()))


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: Any, stream: bool) -> None:
    wanted = {"model": LLM, "messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}
    if stream:
        with client.chat.completions.stream(**wanted) as streamed:
            message = streamed.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**wanted).choices[0].message
    assert message.tool_calls[0].function.name == "weather"
    assert set(json.loads(message.tool_calls[0].function.arguments)) == {"city"}


def test_structured_output(client: Any) -> None:
    from pydantic import BaseModel

    class Weather(BaseModel):
        city: str

    answer = client.chat.completions.parse(model=LLM, messages=HELLO, response_format=Weather)
    assert isinstance(answer.choices[0].message.parsed, Weather)
    plain = {"type": "json_schema", "json_schema": {"name": "weather", "schema": CITY}}
    text = client.chat.completions.create(model=LLM, messages=HELLO, response_format=plain)
    assert set(json.loads(text.choices[0].message.content)) == {"city"}


def test_completions(client: Any) -> None:
    whole = client.completions.create(model=LLM, prompt="once", max_tokens=5)
    stream = client.completions.create(model=LLM, prompt="once", max_tokens=5, stream=True)
    assert "".join(piece.choices[0].text for piece in stream) == whole.choices[0].text != ""


def test_responses(client: Any) -> None:
    whole = client.responses.create(model=LLM, input="hello")
    with client.responses.stream(model=LLM, input="hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text != ""


def test_embeddings(client: Any) -> None:
    answer = client.embeddings.create(model=EMBEDDER, input=TEXTS, encoding_format="float")
    assert [len(item.embedding) for item in answer.data] == [DIMENSION] * len(TEXTS)


def test_embeddings_in_base64(client: Any) -> None:
    packed = client.embeddings.create(model=EMBEDDER, input=TEXTS)  # the SDK itself asks for base64
    plain = client.embeddings.create(model=EMBEDDER, input=TEXTS, encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [LLM, EMBEDDER, RERANKER]
    assert client.models.retrieve(LLM).id == LLM


def test_errors(client: Any) -> None:
    with pytest.raises(import_module("openai").NotFoundError, match=LLM):
        client.chat.completions.create(model="absent", messages=HELLO)
