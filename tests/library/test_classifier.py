"""What a request is taken for, which instances could take it, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from sage_inference.library.classifier import RequestClassifier
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import (
    EngineState,
    ExecutionInstance,
    ExecutionInstanceType,
    RequestType,
)

CHAT, EMBEDDING = RequestType.LLM_CHAT, RequestType.EMBEDDING


def request(kind: RequestType | None = CHAT, **fields: Any) -> RequestMetadata:
    return RequestMetadata(**{"request_id": "r", "request_type": kind, "model": "m", **fields})


def instance(name: str, kind: str, **fields: Any) -> ExecutionInstance:
    return ExecutionInstance(
        name, "h", 1, instance_type=ExecutionInstanceType(kind), **{"state": EngineState.READY, **fields}
    )


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (request(), CHAT),
        (request(EMBEDDING), EMBEDDING),
        (request(RequestType.LLM_GENERATE, prompt="a"), RequestType.LLM_GENERATE),
        (request(CHAT, embedding_texts=["a"], route="/v1/embeddings"), CHAT),
        (request(None), CHAT),
        (request(None, prompt="a"), CHAT),
        (request(None, prompt="a", route="/v1/chat/completions"), CHAT),
        (request(None, prompt="a", route="/v1/completions"), RequestType.LLM_GENERATE),
        (request(None, route="/v1/rerank"), RequestType.RERANK),
        (request(None, embedding_texts=["a"]), EMBEDDING),
        (request(None, prompt="a", embedding_texts=["a"]), EMBEDDING),
        (request(None, prompt="a", embedding_texts=[]), CHAT),
        (request(None, route="/unheard/of"), CHAT),
    ],
)
def test_a_given_type_stands_then_the_route_decides_then_the_texts(
    told: RequestMetadata, kind: RequestType
) -> None:
    assert RequestClassifier().classify(told) is kind


def test_only_instances_that_do_such_work_are_compatible_the_specialised_first() -> None:
    fleet = [instance("both", "mixed"), instance("llm", "llm"), instance("emb", "embedding")]
    both, llm, embedding = fleet
    compatible = RequestClassifier().get_compatible_instances
    assert compatible(EMBEDDING, fleet) == [embedding, both]
    assert compatible(EMBEDDING, fleet, prefer_specialized=False) == [both, embedding]
    assert compatible(CHAT, fleet) == [llm, both]


def test_those_down_or_full_count_only_when_asked_for() -> None:
    fleet = [
        instance("down", "llm", state=EngineState.EJECTED),
        instance("full", "llm", max_concurrent_requests=1, active_requests=1),
    ]
    assert RequestClassifier().get_compatible_instances(CHAT, fleet) == []
    assert RequestClassifier().get_compatible_instances(CHAT, fleet, include_unavailable=True) == fleet


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"request_id": ""}, "missing_request_id"),
        ({"embedding_texts": []}, "empty_texts"),
        ({"embedding_batch_size": 0}, "bad_batch_size"),
        ({"slo_deadline_ms": 0}, "bad_deadline"),
        ({"prompt_tokens": -1}, "bad_prompt_tokens"),
        ({"max_tokens": 0}, "bad_max_tokens"),
        ({"embedding_texts": ["a"]}, "mixed_request"),
        ({"route": "/v1/embeddings"}, "mixed_request"),
    ],
)
def test_what_cannot_be_served_is_invalid(fields: dict[str, Any], code: str) -> None:
    result = RequestClassifier().validate_request(request(**fields))
    assert (result.is_valid, result.error_code) == (False, code)
    assert result.error_message


def test_what_is_odd_is_a_warning_and_strictly_an_error() -> None:
    odd = request(EMBEDDING, model="", embedding_texts=["a", " "])
    lenient = RequestClassifier().validate_request(odd)
    assert lenient.is_valid
    assert len(lenient.warnings) == 2
    assert RequestClassifier(strict_validation=True).validate_request(odd).error_code == "missing_model"
    assert RequestClassifier(strict_validation=True).validate_request(request()).is_valid
