"""Whether an engine that was started serves, by its answers to the first questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sage_inference.engines.managed.readiness import Served, serving
from sage_inference.engines.patience import REAL_TIME
from sage_inference.engines.query_clients import QueryClients
from tests.support.simulators import SimulatedEngine, simulated_engine

_VLLM = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
_REFUSALS = {
    "vllm": (400, {"error": {"message": _VLLM}}, True),
    "transformers": (400, {"error": "Cannot use chat template functions because tokenizer.chat_template is not set"}, True),
    "tgi": (422, {"error": "Template error: template not found", "error_type": "template_error"}, True),
    "another": (400, {"detail": "model m does not have a chat template"}, True),
    "a template that refuses": (400, {"error": {"message": "Chat template rejected the request: roles must alternate"}}, False),
    "too long": (400, {"error": {"message": "the chat has 9 tokens, and the context 8"}}, False),
    "not allowed": (403, {"error": {"message": "no"}}, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def vllm() -> Iterator[SimulatedEngine]:
    with simulated_engine("vllm") as engine:
        yield engine


def served_by(engine: SimulatedEngine, *, warms: bool = True) -> Served:
    async def asked() -> Served:
        queries = QueryClients()
        try:
            return await serving(
                queries.plain, engine.url, None, engine.models, question_s=5, patience=REAL_TIME, warms=warms
            )
        finally:
            await queries.aclose()

    return asyncio.run(asked())


@pytest.mark.parametrize(("status", "refusal", "lacks"), _REFUSALS.values(), ids=_REFUSALS)
def test_a_missing_chat_template_is_recognized(
    vllm: SimulatedEngine, status: int, refusal: Any, lacks: bool
) -> None:
    vllm.faults([{"status": status, "route": "/v1/chat/completions", "body": json.dumps(refusal)}])
    assert served_by(vllm).lacks_chat_template is lacks
    vllm.heal()


@pytest.mark.parametrize("warms", [True, False])
def test_an_engine_that_chats_lacks_no_template(vllm: SimulatedEngine, warms: bool) -> None:
    assert not served_by(vllm, warms=warms).lacks_chat_template
