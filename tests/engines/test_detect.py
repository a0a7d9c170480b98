"""What a server is found to be from its own answers, recorded from real engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest

from sage_inference.engines import detect as module
from sage_inference.engines.detect import Detected, DetectError, detect
from sage_inference.engines.dialects import VLLM
from sage_inference.engines.probe import ProbeResult, probe
from sage_inference.types import EngineKind, ExecutionInstanceType
from tests.support.replay import FIXTURES, recorded, replay

LLM, EMBEDDING, MIXED = (
    ExecutionInstanceType.GENERAL,
    ExecutionInstanceType.EMBEDDING,
    ExecutionInstanceType.LLM_EMBEDDING,
)
Answers = dict[str, tuple[int, bytes] | None]


def found(answers: Answers, **known: Any) -> Detected:
    async def ask() -> Detected:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=1) as client:
            return await detect(client, url, **known)

    with replay(answers) as url:
        return asyncio.run(ask())


def openapi(*paths: str) -> tuple[int, bytes]:
    return 200, json.dumps({"paths": {path: {} for path in paths}}).encode()


def vllm_generate() -> Answers:
    record = json.loads((FIXTURES / "vllm" / "091_routes.json").read_text())
    return {
        "/v1/models": recorded("vllm/002_models"),
        "/version": recorded("vllm/001_version"),
        "/openapi.json": openapi(*record["routes"]),
    }


def test_vllm_generate() -> None:
    vllm = found(vllm_generate())
    assert (vllm.engine, vllm.kind, vllm.version) == (EngineKind.VLLM, LLM, "0.32.0")
    assert [(m.id, m.max_model_len) for m in vllm.models] == [("tiny-llama", 512)]
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize"} <= vllm.routes
    assert not vllm.simulated


def test_vllm_pooling() -> None:
    served = openapi("/v1/embeddings", "/pooling", "/score", "/rerank", "/tokenize", "/health", "/ping")
    vllm = found({"/v1/models": recorded("vllm/101_models"), "/openapi.json": served})
    assert (vllm.engine, vllm.kind) == (EngineKind.VLLM, EMBEDDING)
    assert vllm.routes == {"/v1/embeddings", "/pooling", "/score", "/rerank", "/tokenize"}


def test_vllm_that_hides_its_routes_may_serve_both() -> None:
    vllm = found({"/v1/models": recorded("vllm/002_models")})
    assert (vllm.engine, vllm.kind) == (EngineKind.VLLM, MIXED)


def test_vllm_that_is_too_busy_to_tell_its_routes_is_asked_again() -> None:
    silent: Answers = {"/v1/models": recorded("vllm/002_models"), "/openapi.json": None}
    with pytest.raises(DetectError, match="/openapi"):
        found(silent)
    assert found(silent, kind="llm").kind is LLM


def test_tei() -> None:
    tei = found({"/info": recorded("tei/002_info")})
    assert (tei.engine, tei.kind, tei.version) == (EngineKind.TEI, EMBEDDING, "1.9.3")
    assert [m.id for m in tei.models] == ["thenlper/gte-base"]
    assert tei.limits["max_client_batch_size"] == 32
    assert {"/embed", "/v1/embeddings", "/info"} <= tei.routes


@pytest.mark.parametrize(("kind", "route"), [("reranker", "/rerank"), ("classifier", "/predict")])
def test_tei_of_another_kind_serves_what_its_model_can(kind: str, route: str) -> None:
    status, body = recorded("tei/002_info")
    info = json.loads(body) | {"model_type": {kind: {}}}
    tei = found({"/info": (status, json.dumps(info).encode())})
    assert route in tei.routes
    assert "/v1/embeddings" not in tei.routes


def test_infinity_tells_its_kind_by_its_models_capabilities() -> None:
    infinity = found({"/v1/models": recorded("infinity/002_models")})
    assert (infinity.engine, infinity.kind) == (EngineKind.OPENAI, EMBEDDING)
    assert (infinity.limits["batches_calls"], infinity.limits["pads"]) == (1, 1)


INFINITYS = ("/v1/embeddings", "/v1/rerank", "/v1/classify", "/v1/models", "/health")


def an_infinity(*capabilities: str) -> tuple[int, bytes]:
    status, body = recorded("infinity/002_models")
    document = json.loads(body)
    document["data"][0]["capabilities"] = list(capabilities)
    return status, json.dumps(document).encode()


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_infinity_has_one_route_to_rerank_and_serves_all_three_by_it(prefix: str) -> None:
    served = openapi(*(prefix + path.removeprefix("/v1") for path in INFINITYS))
    infinity = found({f"{prefix}/models": an_infinity("rerank"), "/openapi.json": served})
    assert (infinity.kind, infinity.bare) == (EMBEDDING, not prefix)
    assert {"/v1/rerank", "/v2/rerank", "/rerank"} <= infinity.routes
    assert infinity.paths == {"/rerank": "/v1/rerank", "/v2/rerank": "/v1/rerank"}


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize(
    ("capabilities", "embeds", "ranks"),
    [
        (("rerank",), False, True),
        (("rerank", "classify"), False, True),
        (("embed",), True, False),
        (("embed", "rerank"), True, True),
        (("image_embed", "rerank"), True, True),
    ],
)
def test_an_infinity_has_the_routes_of_its_models_alone(
    prefix: str, capabilities: tuple[str, ...], embeds: bool, ranks: bool
) -> None:
    """It has the routes of every kind of model, whatever its own can do."""
    served = openapi(*(prefix + path.removeprefix("/v1") for path in INFINITYS))
    infinity = found({f"{prefix}/models": an_infinity(*capabilities), "/openapi.json": served})
    assert infinity.kind is EMBEDDING
    assert ("/v1/embeddings" in infinity.routes) is embeds
    assert ("/v1/rerank" in infinity.routes) is ranks
    assert not infinity.guessed


def test_a_server_with_routes_that_its_model_cannot_serve_does_not_rerank() -> None:
    embeds = found({"/v1/models": an_infinity("embed"), "/openapi.json": openapi(*INFINITYS)})
    sglang: Answers = {
        "/v1/models": recorded("llama_cpp/100_models"),
        "/openapi.json": openapi("/v1/chat/completions", "/v1/rerank", "/v1/score", "/get_model_info"),
    }
    for one in (embeds, found(sglang)):
        assert one.engine is EngineKind.OPENAI
        assert not one.routes & {"/v1/rerank", "/v2/rerank", "/rerank"}
        assert one.paths == {}


def test_llama_cpp_may_serve_both() -> None:
    assert found({"/v1/models": recorded("llama_cpp/100_models")}).engine is EngineKind.OPENAI


def test_what_the_user_says_holds() -> None:
    told = found({"/v1/models": recorded("llama_cpp/100_models")}, kind="llm", engine="vllm")
    assert (told.engine, told.kind) == (EngineKind.VLLM, LLM)
    assert "/v1/embeddings" not in told.routes


def test_a_model_is_assumed_where_the_engine_names_none() -> None:
    told = found({"/v1/models": (200, b'{"data":[]}')}, model="mine")
    assert [m.id for m in told.models] == ["mine"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, "no engine that is known"),
        ({"*": (500, b"boom")}, "no engine that is known"),
        ({"*": (200, b"<html>hello</html>")}, "no engine that is known"),
        ({"*": (401, b"{}")}, "wants another api_key"),
        ({"*": (200, b"x" * 3_000_000)}, "more than"),
        ({"*": (200, b"[" * 200_000)}, "no engine that is known"),
        ({"*": None}, "does not answer in time"),
    ],
    ids=["404", "500", "html", "401", "huge", "deep", "silent"],
)
def test_what_is_no_engine_is_said_to_be_none(answers: Answers, says: str) -> None:
    with pytest.raises(DetectError, match=says):
        found(answers)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"null", b"5", b'{"data":3}', b'{"data":[null,{"id":5},{"id":"x","created":"y"}]}']
)
def test_odd_documents_end_in_a_result_or_a_detect_error(body: bytes) -> None:
    with contextlib.suppress(DetectError):
        assert isinstance(found({"*": (200, body)}), Detected)


def test_an_unreachable_server_is_said_to_refuse() -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            await module.detect(client, "http://127.0.0.1:9")

    with pytest.raises(DetectError, match="connection refused"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "ok", "error"),
    [
        ((200, b""), True, None),
        ((503, b""), False, None),
        ((404, b""), True, None),
        (None, False, "within 0.2 s"),
    ],
    ids=["well", "unwell", "no such route", "silent"],
)
def test_a_probe_tells_well_from_unwell(
    answer: tuple[int, bytes] | None, ok: bool, error: str | None
) -> None:
    async def ask(url: str) -> ProbeResult:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            return await probe(client, url, VLLM, None, 0.2)

    with replay({"/health": answer}) as url:
        result = asyncio.run(ask(url))
    assert result.ok is ok
    assert (error or "") in (result.error or "")
