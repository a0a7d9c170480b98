"""Kinds of requests and their weights."""

from __future__ import annotations

import pytest

from sage_inference.bench.errors import OptionError
from sage_inference.bench.exchange import Kind
from sage_inference.bench.mix import parse


def test_one_kind_several_and_weights() -> None:
    assert parse("chat") == {Kind.CHAT: 1}
    assert parse("mixed") == {Kind.CHAT: 1, Kind.STREAM: 1, Kind.EMBEDDINGS: 1}
    assert parse("stream=8, embeddings=2") == {Kind.STREAM: 8, Kind.EMBEDDINGS: 2}


@pytest.mark.parametrize(
    "text", ["", "chats", "chat=", "chat=0", "chat=-1", "chat=nan", "chat,chat", "mixed=2"]
)
def test_others_are_refused_with_the_choices(text: str) -> None:
    with pytest.raises(OptionError, match="one of chat, stream, embeddings, mixed"):
        parse(text)
