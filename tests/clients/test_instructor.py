"""Instructor, on the openai SDK."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pydantic import BaseModel

from tests.clients.wishes import HELLO, LLM

CLIENT = "instructor"


class Weather(BaseModel):
    city: str


def test_tools(client: Any) -> None:
    answer = client.chat.completions.create(model=LLM, messages=HELLO, response_model=Weather)
    assert isinstance(answer, Weather)


def test_json_schema(client: Any) -> None:
    instructor = import_module("instructor")
    other = instructor.from_openai(client.client, mode=instructor.Mode.JSON_SCHEMA)
    assert isinstance(
        other.chat.completions.create(model=LLM, messages=HELLO, response_model=Weather), Weather
    )


def test_partial_stream(client: Any) -> None:
    stream = client.chat.completions.create_partial(model=LLM, messages=HELLO, response_model=Weather)
    assert list(stream)[-1].city
