"""A real infinity under a keeper: it serves, comes back after SIGKILL, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sage_inference.config.settings import ManagedEngineSettings, Settings
from sage_inference.keeper.client import stop_all
from sage_inference.server import EngineRun
from tests.real.install import CannotInstallError, ensure_infinity
from tests.support.managed import COMMON, ManagedGateway, gone, kill, processes

READY_S = 200.0


@pytest.mark.real_engine
@pytest.mark.timeout(500)
def test_a_real_engine_lives_and_dies_under_its_keeper(tmp_path: Path) -> None:
    try:
        installed = ensure_infinity()
    except CannotInstallError as reason:
        pytest.fail(str(reason), pytrace=False)
    model = str(installed.embedding_model)
    engine = ManagedEngineSettings(model=model, name="mini", engine="infinity", kind="embedding")
    program = (str(installed.python.parent / "infinity_emb"),)
    settings = Settings(engines=(engine,), managed=replace(COMMON, infinity=program))
    gateway = ManagedGateway(tmp_path, run=EngineRun(tmp_path), settings=settings)
    try:
        gateway.start()
        before = gateway.state("mini", "ready", seconds=READY_S)
        assert len(gateway.embed(model).json()["data"][0]["embedding"]) == 384
        kill(before["pid"])
        gateway.http.timeout = READY_S
        held = gateway.embed(model)
        assert held.status_code == 200, held.text
        after = gateway.state("mini", "ready")
        assert (after["pid"] != before["pid"], after["restarts"]) == (True, 1)
        running = processes(tmp_path)
        assert running
    finally:
        gateway.stop()
        stop_all(tmp_path, 0)
    gone(running)
