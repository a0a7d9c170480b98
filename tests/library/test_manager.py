"""``ControlPlaneManager`` and ``ExecutionCoordinator`` over real engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sage_inference.client.errors import NotFoundError
from sage_inference.library.coordinator import ExecutionCoordinator
from sage_inference.library.manager import ControlPlaneManager
from sage_inference.library.policies import FIFOPolicy
from sage_inference.library.requests import RequestMetadata
from sage_inference.types import (
    ExecutionInstance,
    ExecutionInstanceType,
    RequestPriority,
    RequestStatus,
    RequestType,
)
from tests.client.test_calls import CHAT
from tests.support.rogue import RogueEngine, ok, raw
from tests.support.simulators import SimulatedEngine

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def chat(name: str = "r1", **fields: Any) -> RequestMetadata:
    return RequestMetadata(name, RequestType.LLM_CHAT, **{"model": "", **fields})


def managed(
    *engines: Any, policy: Any = "least_loaded"
) -> Callable[[Callable[[ControlPlaneManager], Awaitable[None]]], None]:
    def run(test: Callable[[ControlPlaneManager], Awaitable[None]]) -> None:
        async def main() -> None:
            manager = ControlPlaneManager(scheduling_policy=policy)
            for engine in engines:
                manager.register_instance({"port": engine.port, "instance_type": "llm"})
            async with manager:
                await test(manager)
            assert len(asyncio.all_tasks()) == 1

        asyncio.run(main())

    return run


async def until(fact: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.005)


def test_a_prompt_needs_no_body(vllm: SimulatedEngine, tmp_path: Path) -> None:
    secret = "words that nobody may see"
    record = tmp_path / "decisions.jsonl"

    async def main() -> None:
        coordinator = ExecutionCoordinator({"record_file": str(record)})
        instance = ExecutionInstance("i", vllm.host, vllm.port, is_healthy=True, max_concurrent_requests=9)
        coordinator.register_instance(instance)
        async with coordinator:
            for kind in (RequestType.LLM_CHAT, RequestType.LLM_GENERATE):
                request = RequestMetadata(kind.value, kind, prompt=secret, max_tokens=2, user_id="u")
                result = await coordinator.execute(request)
                assert result.text
                assert result.usage["completion_tokens"] == 2

    asyncio.run(main())
    assert "llm_generate" in record.read_text()
    assert secret not in record.read_text()


def test_a_result_can_be_awaited(vllm: SimulatedEngine, tei: SimulatedEngine) -> None:
    async def main() -> None:
        async with ControlPlaneManager("hybrid") as manager:
            told = ExecutionInstance(
                "chat", vllm.host, vllm.port, "simulated-llm", ExecutionInstanceType.GENERAL
            )
            assert manager.register_instance(told) == "chat"
            manager.register_instance(tei.url)
            at_socket = ExecutionInstance("s", "localhost", 80, uds="/run/no.sock", max_concurrent_requests=3)
            assert manager.register_instance(at_socket) == "s"
            result = await manager.submit_request(chat(), HI)
            assert result.text
            assert (result.instance, result.request_id) == ("chat", "r1")
            assert manager.get_request_status("r1") is RequestStatus.COMPLETED
            wanted = RequestMetadata("e1", RequestType.EMBEDDING, "", embedding_texts=["a", "b"])
            assert len((await manager.submit_request(wanted)).content) == 2
            status, metrics = manager.get_status(), manager.get_metrics()
            assert status["policy"] == "hybrid"
            assert (metrics.total_requests, metrics.completed_requests, metrics.failed_requests) == (2, 2, 0)
            assert metrics.avg_ttft_ms is not None

    asyncio.run(main())


def test_metadata_reaches_engine_and_scheduler() -> None:
    with RogueEngine(ok(json.dumps(CHAT))) as engine:

        @managed(engine)
        async def _(manager: ControlPlaneManager) -> None:
            request = chat("mine", model="m", priority=RequestPriority.LOW, tenant="t", slo_deadline_ms=5000)
            await manager.submit_request(request, HI)
            assert b"x-request-id: mine\r\n" in engine.requests[0]
            assert json.loads(engine.requests[0].partition(b"\r\n\r\n")[2]) == {
                **HI,
                "model": "m",
                "user": "t",
            }


def test_an_error_is_raised_where_the_result_is_awaited(vllm: SimulatedEngine) -> None:
    @managed(vllm)
    async def _(manager: ControlPlaneManager) -> None:
        with pytest.raises(NotFoundError):
            await manager.submit_request(chat(model="other"), HI)
        assert manager.get_request_status("r1") is RequestStatus.FAILED
        assert manager.get_metrics().failed_requests == 1


def test_a_request_can_be_followed_and_cancelled_down_to_the_engine() -> None:
    with RogueEngine(raw(b"", then="silent")) as engine:

        @managed(engine)
        async def _(manager: ControlPlaneManager) -> None:
            task = manager.submit_request(chat(), HI)
            assert manager.get_request_status("r1") is RequestStatus.PENDING
            await until(lambda: manager.get_request_status("r1") is RequestStatus.RUNNING)
            # Until it arrives, the request may be connecting, and the engine would see nobody leave.
            await asyncio.to_thread(engine.arrived.get, timeout=10)
            with pytest.raises(ValueError, match="runs already"):
                manager.submit_request(chat(), HI)
            assert manager.cancel_request("r1")
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(engine.left.get, timeout=10)
            assert manager.get_request_status("r1") is RequestStatus.CANCELLED
            assert not manager.cancel_request("r1")
            assert manager.get_request_status("unheard") is None
            await until(lambda: manager.get_metrics().active_requests == 0)


def test_what_waits_for_a_slot_is_queued() -> None:
    with RogueEngine(raw(b"", then="silent")) as engine:

        async def main() -> None:
            async with ControlPlaneManager("fifo") as manager:
                manager.register_instance(
                    {"port": engine.port, "instance_type": "llm", "max_concurrent_requests": 1}
                )
                tasks = [manager.submit_request(chat(name), HI) for name in ("r1", "r2")]
                await until(lambda: manager.get_request_status("r2") is RequestStatus.QUEUED)
                assert manager.get_metrics().queued_requests == 1
                await manager.stop()
                assert all(task.cancelled() for task in tasks)

        asyncio.run(main())


def test_the_policy_changes_as_requests_run(vllm: SimulatedEngine) -> None:
    @managed(vllm, policy=FIFOPolicy())
    async def _(manager: ControlPlaneManager) -> None:
        assert manager.get_status()["policy"] == "fifo"
        manager.update_policy("random")
        assert manager.get_status()["policy"] == "random"
        with pytest.raises(ValueError, match="not one of hybrid"):
            manager.update_policy("best")
        assert (await manager.submit_request(chat(), HI)).text


def test_instances_come_and_go(vllm: SimulatedEngine) -> None:
    @managed(vllm)
    async def _(manager: ControlPlaneManager) -> None:
        [name] = [one.instance_id for one in manager.coordinator.list_instances()]
        with pytest.raises(ValueError, match="exists already"):
            manager.register_instance({"port": vllm.port})
        with pytest.raises(ValueError, match="has no prot"):
            manager.register_instance({"prot": 1})
        assert manager.unregister_instance(name)
        assert not manager.unregister_instance(name)
        assert manager.coordinator.get_instance(name) is None
        manager.register_instance({"port": vllm.port})
        assert (await manager.submit_request(chat("r2"), HI)).text


def test_a_coordinator_runs_requests_by_itself(vllm: SimulatedEngine) -> None:
    async def main() -> None:
        coordinator = ExecutionCoordinator()
        coordinator.register_instance(vllm.url)
        with pytest.raises(RuntimeError, match="not started"):
            await coordinator.execute(chat(), HI)
        async with coordinator:
            request = RequestMetadata("g", RequestType.LLM_GENERATE, "")
            assert (await coordinator.execute(request, {"prompt": "a", "max_tokens": 2})).text
            with pytest.raises(ValueError, match="needs its route"):
                await coordinator.execute(RequestMetadata("t", RequestType.TOKENIZE, ""), {"prompt": "a"})
            told = RequestMetadata("t", RequestType.TOKENIZE, "", route="/tokenize")
            assert (await coordinator.execute(told, {"prompt": "a b"})).content["tokens"]

    asyncio.run(main())


def test_a_policy_there_is_not_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="'best' is not one of"):
        ControlPlaneManager("best")
