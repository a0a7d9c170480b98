"""Engines that this gateway did not start: those of a gateway beside it, dead ones, and processes of strangers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sage_inference.config.settings import InstanceSettings, ManagedEngineSettings, Settings
from sage_inference.gateway.managed import engine_set
from sage_inference.gateway.managed.engine_run import RunModel
from sage_inference.keeper.client import stop_all
from sage_inference.server import EngineRun, RunningGateway
from tests.support.inprocess import ADMIN
from tests.support.managed import COMMON, EMBED, ManagedGateway, gone, kill, managed, processes
from tests.support.rogue import RogueEngine


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def serving(state_dir: Path) -> Iterator[ManagedGateway]:
    with managed(state_dir, EMBED) as gateway:
        yield gateway


def test_a_successor_that_does_not_take_over_gives_no_order(serving: ManagedGateway) -> None:
    before = serving.state("embed", "ready")

    async def come_and_go() -> str:
        # Its settings would restart the engine, and another one would be started.
        engines = (replace(EMBED, dtype="float16"), replace(EMBED, model="org/other"))
        running = RunningGateway(
            Settings(engines=engines, managed=COMMON, discover=False),
            engines=EngineRun(serving.state_dir, simulates=True, passive=True),
        )
        async with running.working():
            assert running.managed is not None
            found = running.managed.engines
            assert found["other"].state.value == "off"
            return found["embed"].state.value

    assert asyncio.run(come_and_go()) == "ready"
    after = serving.engine("embed")
    assert (after["state"], after["pid"]) == ("ready", before["pid"])
    assert serving.embed().status_code == 200


def test_an_engine_that_died_without_a_gateway_is_started_anew(serving: ManagedGateway) -> None:
    before = serving.state("embed", "ready")
    left = processes(serving.state_dir)
    serving.keep()
    serving.stop()
    kill(before["pid"])
    gone(left)
    with managed(serving.state_dir, EMBED) as next_one:
        assert next_one.embed().status_code == 200
        after = next_one.engine("embed")
        assert after["pid"] != before["pid"]
        assert not after["adopted"]


def test_a_start_goes_on_under_the_next_gateway(tmp_path: Path) -> None:
    loads = ManagedEngineSettings(model="org/loads", engine="vllm", args=("--load-seconds", "2"))
    with managed(tmp_path, loads) as first:
        first.state("loads", "starting")
        first.until(lambda gateway: gateway.managed is not None and gateway.managed.engines["loads"].running)
        before = first.engine("loads")
        first.keep()
        first.stop()
        with managed(tmp_path, loads) as second:
            assert second.engine("loads")["state"] == "starting"
            assert second.chat("org/loads").status_code == 200
            after = second.engine("loads")
            assert (after["pid"], after["adopted"]) == (before["pid"], True)
            assert after["expected_s"] >= 2


def test_only_a_model_that_nobody_serves_becomes_an_engine(tmp_path: Path) -> None:
    models = (RunModel("llm", "short"), RunModel("embedding", "org/embed"))
    run = EngineRun(tmp_path, models, simulates=True)
    with RogueEngine(model="org/served") as engine:
        settings = Settings(
            instances=(InstanceSettings(url=engine.url),), aliases={"short": "org/served"}, managed=COMMON
        )
        gateway = ManagedGateway(tmp_path, run=run, settings=settings)
        try:
            gateway.start()
            names = [
                each["name"] for each in gateway.http.get("/admin/engines", headers=ADMIN).json()["engines"]
            ]
            assert names == ["embed"]
            assert gateway.engine("embed")["engine"] == "tei"
        finally:
            gateway.stop()
            stop_all(tmp_path, 0)


def test_a_strangers_process_is_shown_and_never_signalled(state_dir: Path, tmp_path: Path) -> None:
    """A pid that is used again: ``engine.json`` names a living process that is no keeper, and the lock is held."""
    directory = tmp_path / "engines" / "embed"
    directory.mkdir(parents=True)
    record = (state_dir / "engines" / "embed" / "engine.json").read_text()
    stranger = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        document = json.loads(record) | {"keeper_pid": stranger.pid, "engine_pid": stranger.pid}
        (directory / "engine.json").write_text(json.dumps(document))
        with (directory / "keeper.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with managed(tmp_path, EMBED) as gateway:
                found = gateway.state("embed", "lost")
                assert "keeper.lock" in found["failure"]["message"]
                assert gateway.embed().status_code == 503
                for order in ("load", "restart", "unload"):
                    assert gateway.order("embed", order).status_code == 202
                fcntl.flock(lock, fcntl.LOCK_UN)
        assert psutil.Process(stranger.pid).is_running()
        assert stranger.poll() is None
    finally:
        assert stranger.stdin is not None
        stranger.stdin.close()
        stranger.wait(10)


@pytest.mark.parametrize("by", ["an unload", "time"])
def test_a_failed_load_of_a_wrong_name_leaves_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(engine_set, "FORGET_S", 0.05 if by == "time" else 600.0)
    wrong = str(tmp_path / "no-such-model")
    with managed(tmp_path / "state") as gateway:
        made = gateway.http.post("/admin/engines", json={"model": wrong}, headers=ADMIN).json()["engine"]
        gateway.until(lambda running: wrong in running.gateway.waiting_room.declared)
        if by == "an unload":
            failure = gateway.state(made["name"], "failed")["failure"]
            assert failure["permanent"]
            assert gateway.order(made["name"], "unload").json()["engine"]["state"] == "off"
        gateway.until(lambda running: running.managed and not running.managed.engines, 20)
        assert wrong not in [card["id"] for card in gateway.http.get("/v1/models").json()["data"]]
        again = gateway.http.post("/admin/engines", json={"model": wrong}, headers=ADMIN)
        assert again.json()["engine"]["name"] == made["name"]


def test_an_engine_that_is_declared_at_the_very_end_does_not_stay(tmp_path: Path) -> None:
    with managed(tmp_path) as gateway:
        answer = gateway.http.post("/admin/engines", json={"model": "org/late"}, headers=ADMIN)
        assert answer.status_code == 202
        gateway.stop()
        assert processes(tmp_path) == []
