"""The package's public face: every promised name is there, documented, and typed for who uses it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sage_inference

# The names the package promises; a test, so that none is lost by moving code.
PROMISED = """
RequestType RequestPriority RequestStatus ExecutionInstanceType EngineState RequestMetadata ExecutionInstance
SchedulingDecision PerformanceMetrics
RequestClassifier ValidationResult SchedulingPolicy FIFOPolicy PriorityPolicy SLOAwarePolicy CostOptimizedPolicy
AdaptivePolicy HybridSchedulingPolicy HybridSchedulingConfig EmbeddingBatch EmbeddingPriority EmbeddingExecutor
EmbeddingResult EmbeddingMetrics EmbeddingExecutorError EmbeddingInstanceUnavailableError EmbeddingTimeoutError
EmbeddingRequestError ExecutionCoordinator ControlPlaneManager
UnifiedAPIServer UnifiedServerConfig BackendInstanceConfig SchedulingPolicyType create_unified_server
UnifiedInferenceClient AsyncUnifiedInferenceClient UnifiedClient UnifiedClientMode UnifiedClientConfig
InferenceResult Ranking TextStream AsyncTextStream IntelligentLLMClient IntelligentEmbeddingClient
LLMClientAdapter EmbeddingClientAdapter create_llm_client_compat create_embedding_client_compat
SageInferenceError InferenceConnectionError NoServerFoundError InferenceTimeoutError AuthenticationError
NotFoundError BadRequestError RateLimitedError EngineError
""".split()


@pytest.mark.parametrize("name", PROMISED)
def test_the_name_is_there_and_documented(name: str) -> None:
    found = getattr(sage_inference, name)
    said = inspect.getdoc(found)
    assert said
    assert not said.startswith(f"{name}("), "a dataclass's own signature is no documentation"


def test_the_promise_is_all_there_is() -> None:
    assert sorted([*PROMISED, "__version__"]) == sorted(sage_inference.__all__)
    assert dir(sage_inference) == sorted(sage_inference.__all__)


def test_type_checkers_are_told_the_same_names() -> None:
    source = Path(sage_inference.__file__).read_text()
    told = set(re.findall(r"\b(\w+) as \1\b", source))
    assert told | {"UnifiedClient"} == set(PROMISED)


def test_other_names_are_missing_as_they_should_be() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sage_inference.nonsense


CONSUMER = """
from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

import sage_inference as si


def use() -> None:
    client = si.UnifiedInferenceClient.create_auto(llm_model="m", timeout=3.0, llm_ports=(8001,))
    text: str = client.chat([{"role": "user", "content": "hi"}], temperature=0, tools=[])
    result: si.InferenceResult = client.chat("hi", return_result=True)
    stream: si.TextStream = client.chat("hi", stream=True)
    pieces: list[str] = list(stream)
    vector: list[float] = client.embed("a")
    vectors: list[list[float]] = client.embed(["a", "b"])
    array: NDArray[np.float32] = client.embed(["a"], as_numpy=True)
    best: list[si.Ranking] = client.rerank("q", ["a"])
    print(text, result.usage, pieces, vector, vectors, array.shape, best[0].score, client.is_control_plane_mode)
    with si.UnifiedInferenceClient.create_with_control_plane(
        instances=[{"host": "h", "port": 1, "model_name": "m", "instance_type": "general"}],
        scheduling_policy=si.SchedulingPolicyType.HYBRID,
    ) as other:
        other.generate("once", max_tokens=3)


async def use_async() -> None:
    async with si.AsyncUnifiedInferenceClient("http://h:1", max_retries=1) as client:
        text: str = await client.chat("hi")
        stream: si.AsyncTextStream = await client.chat("hi", stream=True)
        vectors: list[list[float]] = await client.embed(["a"])
        print(text, [piece async for piece in stream], vectors)
    async with si.ControlPlaneManager(si.HybridSchedulingPolicy(embedding_batch_size=8)) as manager:
        request = si.RequestMetadata("r", si.RequestType.LLM_CHAT, "m", priority=si.RequestPriority.HIGH)
        done: si.InferenceResult = await manager.submit_request(request, {"messages": []})
        metrics: si.PerformanceMetrics = manager.get_metrics()
        print(done.text, metrics.total_requests)


def serve() -> None:
    config = si.UnifiedServerConfig(llm_backends=["http://h:1", si.BackendInstanceConfig(port=2)])
    with si.UnifiedAPIServer(config) as server:
        print(server.url, server.get_status()["state"], server.is_running())


def construct() -> list[si.ExecutionInstance]:
    requests = [
        si.RequestMetadata(request_id="r1", prompt="hello", model_name="m"),
        si.RequestMetadata(
            request_id="r2",
            embedding_texts=["a"],
            embedding_model="e",
            request_type=si.RequestType.EMBEDDING,
            priority=si.RequestPriority.HIGH,
            user_id="u",
            max_tokens=16,
            slo_deadline_ms=500,
            tags={"k": "v"},
        ),
        si.RequestMetadata("r3", "llm_generate", model="m", priority="low"),
    ]
    instance = si.ExecutionInstance(
        instance_id="i",
        host="h",
        port=1,
        model_name="m",
        instance_type=si.ExecutionInstanceType.GENERAL,
        is_healthy=True,
        is_available=True,
        max_concurrent_requests=100,
    )
    kinds: list[si.RequestType] = [si.RequestClassifier().classify(one) for one in requests]
    assert kinds == [si.RequestType.LLM_CHAT, si.RequestType.EMBEDDING, si.RequestType.LLM_GENERATE]
    other: si.RequestMetadata = dataclasses.replace(requests[0], prompt="other", model_name="n")
    assert (other.prompt, other.model) == ("other", "n")
    assert schedule([requests[0]], [instance]) == ["i"]
    try:
        si.HybridSchedulingPolicy(si.HybridSchedulingConfig(embedding_batch_size=0))
    except ValueError as error:
        assert str(error) == "embedding_batch_size must be a whole number of at least 1, not 0"
    else:
        raise AssertionError("embedding_batch_size 0 was taken")
    return si.RequestClassifier().get_compatible_instances(si.RequestType.LLM_CHAT, [instance])


def schedule(requests: list[si.RequestMetadata], instances: list[si.ExecutionInstance]) -> list[str]:
    policy: si.SchedulingPolicy = si.SLOAwarePolicy()
    verdict: si.ValidationResult = si.RequestClassifier(strict_validation=True).validate_request(requests[0])
    print(verdict.is_valid, policy.get_metrics())
    return [decision.target_instance_id for decision in policy.schedule(requests, instances)]


def handle(error: si.SageInferenceError) -> float:
    return error.retry_after or 0.0


if __name__ == "__main__":
    assert [one.instance_id for one in construct()] == ["i"]
"""


MISTAKES = """
import sage_inference as si

si.UnifiedInferenceClient("http://h:1", timeot=3)
n: int = si.UnifiedInferenceClient("http://h:1").chat("hi")
si.UnifiedServerConfig(port="x")
si.RequestMetadata("r", "chat", "m")
si.HybridSchedulingPolicy(embedding_batch_size="x")
"""


def test_a_consumers_script_is_typed_strictly_and_its_mistakes_are_seen(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            "/dev/null",
            "consumer.py",
            "mistakes.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.partition(": error:")[0] for line in errors] == [f"mistakes.py:{n}" for n in (4, 5, 6, 7, 8)]
    ran = subprocess.run(
        [sys.executable, "consumer.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


def test_the_package_says_it_is_typed() -> None:
    assert (Path(sage_inference.__file__).parent / "py.typed").exists()
