"""What differs between engines: error shapes, and how vLLM says it is leaving."""

from __future__ import annotations

import json

from sage_inference.engines.dialects import OPENAI, TEI, VLLM


def test_vllms_shutdown_answer_means_draining_and_no_other_500_does() -> None:
    leaving = b'{"error":{"message":"cannot schedule new futures after shutdown","code":500}}'
    assert VLLM.looks_at(500, "/v1/chat/completions")
    assert VLLM.means_draining(500, leaving)
    assert not VLLM.means_draining(500, b'{"error":{"message":"EngineCore encountered an issue"}}')
    assert not VLLM.means_draining(400, leaving)
    assert not OPENAI.means_draining(500, leaving)


def test_teis_flat_errors_get_the_apis_envelope_on_its_openai_route_only() -> None:
    flat = b'{"message":"batch size 33 > maximum allowed batch size 32","code":422,"type":"Validation"}'
    wrapped = TEI.wrapped_error(422, "/v1/embeddings", flat)
    assert wrapped is not None
    assert json.loads(wrapped)["error"] == {
        "message": "batch size 33 > maximum allowed batch size 32",
        "type": "invalid_request_error",
        "param": None,
        "code": "Validation",
    }
    assert TEI.wrapped_error(422, "/embed", flat) is None


def test_teis_plain_text_errors_get_the_envelope_too() -> None:
    wrapped = TEI.wrapped_error(429, "/v1/embeddings", b"too busy")
    assert wrapped is not None
    assert json.loads(wrapped)["error"]["message"] == "too busy"
    assert json.loads(wrapped)["error"]["type"] == "rate_limit_error"
