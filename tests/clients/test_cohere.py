"""Cohere's SDK, for reranking."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tests.clients.wishes import BEST, DOCUMENTS, QUERY, RERANKER

CLIENT = "cohere"


def test_rerank(client: Any) -> None:
    found = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS, top_n=2).results
    assert [len(found), found[0].index] == [2, BEST]


def test_errors(client: Any) -> None:
    with pytest.raises(import_module("cohere").NotFoundError, match=RERANKER):
        client.rerank(model="absent", query=QUERY, documents=DOCUMENTS)
