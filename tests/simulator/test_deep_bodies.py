"""A body nested too deeply is refused, as real engines refuse it: the connection stays, and so does the engine."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.simulators import simulated_engine

DEEP = b"[" * 500_000 + b"]" * 500_000
READABLE = b"[" * 50_000 + b"]" * 50_000  # by CPython 3.14, which measures the C stack
OBJECTS = b'{"a":' * 200_000 + b"1" + b"}" * 200_000


@pytest.mark.parametrize(
    "deep", [DEEP, OBJECTS, DEEP[:500_000], READABLE], ids=["lists", "objects", "unfinished", "readable"]
)
@pytest.mark.parametrize(
    ("kind", "route", "field"),
    [
        ("vllm", "/v1/chat/completions", b"messages"),
        ("vllm", "/v1/completions", b"prompt"),
        ("vllm", "/v1/messages", b"messages"),
        ("vllm", "/tokenize", b"prompt"),
        ("tei", "/v1/embeddings", b"input"),
        ("tei", "/embed", b"inputs"),
    ],
)
def test_it_is_a_refusal(
    engines: dict[str, httpx.Client], kind: str, route: str, field: bytes, deep: bytes
) -> None:
    body = b'{"%b":%b}' % (field, deep)
    answer = engines[kind].post(route, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.text


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, httpx.Client]]:
    with simulated_engine("vllm") as vllm, simulated_engine("tei") as tei:
        with vllm.client() as one, tei.client() as other:
            yield {"vllm": one, "tei": other}
