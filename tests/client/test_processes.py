"""Clients across forks, in notebooks, at the end of a process, and what importing them costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import sage_inference as si
from tests.support.simulators import SimulatedEngine

MODES = ("http", "control plane")


def client_of(mode: str, engine: SimulatedEngine) -> si.UnifiedInferenceClient:
    if mode == "http":
        return si.UnifiedInferenceClient(engine.url)
    return si.UnifiedInferenceClient.create_with_control_plane(
        [{"host": engine.host, "port": engine.port}], scheduling_policy="least_loaded"
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_client_serves_both_sides_of_a_fork(mode: str, vllm: SimulatedEngine) -> None:
    script = f"""
        import os, sys
        import sage_inference as si
        client = {CONSTRUCTIONS[mode]}
        before = client.chat("hi", max_tokens=3)
        children = []
        for number in range(4):
            child = os.fork()
            if child == 0:
                ok = all(client.chat("hi", max_tokens=3) == before for _ in range(20))
                client.close()
                sys.exit(0 if ok else 1)
            children.append(child)
        assert all(client.chat("hi", max_tokens=3) == before for _ in range(20))
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        client.close()
        print("done")
    """
    assert run(script, vllm) == "done"


CONSTRUCTIONS = {
    "http": 'si.UnifiedInferenceClient(os.environ["ENGINE"])',
    "control plane": 'si.UnifiedInferenceClient.create_with_control_plane([os.environ["ENGINE"]], '
    'scheduling_policy="least_loaded")',
}


def run(script: str, engine: SimulatedEngine) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", textwrap.dedent(script)],
        env=os.environ | {"ENGINE": engine.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("mode", MODES)
def test_a_process_ends_with_a_client_left_open(mode: str, vllm: SimulatedEngine) -> None:
    script = f"""
        import os
        import sage_inference as si
        client = {CONSTRUCTIONS[mode]}
        stream = client.chat("hi", stream=True, max_tokens=1000, ignore_eos=True)
        print(next(stream) != "")
    """
    assert run(script, vllm) == "True"


@pytest.mark.parametrize("mode", MODES)
def test_the_client_for_threads_works_where_an_event_loop_runs(mode: str, vllm: SimulatedEngine) -> None:
    async def notebook() -> Any:
        with client_of(mode, vllm) as client:
            return client.chat("hi", max_tokens=2), client.is_llm_available(), client.models()

    text, available, models = asyncio.run(notebook())
    assert text
    assert (available, models) == (True, ["simulated-llm"])


def test_detection_works_where_an_event_loop_runs(vllm: SimulatedEngine) -> None:
    async def notebook() -> str:
        ports: dict[str, Any] = {"llm_ports": (vllm.port,), "embedding_ports": ()}
        with si.UnifiedInferenceClient.create_auto(**ports) as client:
            return client.chat("hi", max_tokens=2)

    assert asyncio.run(notebook())


@pytest.mark.parametrize("mode", MODES)
def test_an_async_client_outlives_an_event_loop(mode: str, vllm: SimulatedEngine) -> None:
    if mode == "http":
        client = si.AsyncUnifiedInferenceClient(vllm.url)
    else:
        client = si.AsyncUnifiedInferenceClient.create_with_control_plane(
            [vllm.url], scheduling_policy="least_loaded"
        )
    answers = [asyncio.run(client.chat("hi", max_tokens=2)) for _ in range(3)]
    assert len(set(answers)) == 1
    asyncio.run(client.close())


def test_a_key_makes_one_client(vllm: SimulatedEngine) -> None:
    options = {"llm_base_url": vllm.url, "embedding_base_url": vllm.url}
    one = si.UnifiedInferenceClient.get_instance("a", **options)
    try:
        assert si.UnifiedInferenceClient.get_instance("a") is one
        assert si.UnifiedInferenceClient.get_instance("b", **options) is not one
        one.close()
        assert si.UnifiedInferenceClient.get_instance("a", **options) is not one
    finally:
        si.UnifiedInferenceClient.clear_instances()


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_next_to_nothing() -> None:
    assert not {"httpx", "asyncio", "msgspec", "starlette", "uvicorn"} & loaded("import sage_inference")


def test_importing_the_client_loads_no_gateway() -> None:
    modules = loaded("from sage_inference import UnifiedInferenceClient")
    assert not {"starlette", "uvicorn", "msgspec", "numpy"} & modules
