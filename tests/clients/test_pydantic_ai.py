"""Pydantic AI."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from pydantic import BaseModel

CLIENT = "pydantic-ai"


class Weather(BaseModel):
    city: str


def _agent(client: Any, **options: Any) -> Any:
    return import_module("pydantic_ai").Agent(client, **options)


def test_chat(client: Any) -> None:
    assert _agent(client).run_sync("hello").output


def test_stream(client: Any) -> None:
    async def texts() -> list[str]:
        async with _agent(client).run_stream("hello") as result:
            return [text async for text in result.stream_text(delta=True)]

    assert "".join(asyncio.run(texts()))


def test_structured_output(client: Any) -> None:
    """By a tool that must be called, and by a JSON schema."""
    assert isinstance(_agent(client, output_type=Weather).run_sync("hello").output, Weather)
    native = import_module("pydantic_ai").NativeOutput(Weather)
    assert isinstance(_agent(client, output_type=native).run_sync("hello").output, Weather)
