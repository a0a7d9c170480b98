"""The engine of a replica, without Ray: its start, its end, and the end of the process that owns it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sage_inference.cluster import process
from sage_inference.cluster.folder import FolderError, PortLease, folder_of, root_folder, sweep
from sage_inference.cluster.process import EnginePlan, OwnedEngine, ReplicaError
from sage_inference.config.cluster_file import cluster_from_data
from sage_inference.engines.managed.recipes.base import Listen
from sage_inference.keeper import client as keeper
from tests.support.gateway import free_port

MODEL = "sim/llm"
SIMULATOR = [
    sys.executable,
    "-m",
    "sage_inference.simulator",
    "vllm-serve",
    MODEL,
    "--host",
    "{host}",
    "--port",
    "{port}",
]


def plan_of(root: Path, *more: str, replica: str = "r1", **keys: object) -> EnginePlan:
    port = free_port()
    model = {"model": MODEL, "engine": "command", "gpus": 0, "command": [*SIMULATOR, *more], **keys}
    settings = cluster_from_data({"models": [model], "ports": port})
    [one] = settings.models
    return EnginePlan(
        one.title,
        one.entry(("cpu",)),
        one.programs(),
        Listen("127.0.0.1"),
        settings.ports,
        root,
        folder_of(root, "sage-engines.llm", replica),
        {"node": "gpu1"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for folder in tmp_path.iterdir():
        if folder.is_dir() and (link := keeper.adopt(folder)) is not None:
            with link:
                link.kill()
                link.wait_exit(10)


def awaited(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def started(plan: EnginePlan) -> OwnedEngine:
    engine = OwnedEngine(plan, os.environ)
    engine.start()
    asyncio.run(engine.ready())
    return engine


def test_an_engine_serves_until_it_is_stopped_and_its_folder_keeps_the_log(root: Path) -> None:
    engine = started(plan_of(root))
    assert engine.url.startswith("http://127.0.0.1:")
    asyncio.run(engine.health())
    assert engine.ended() is None
    pid = engine.pid
    assert pid is not None
    engine.stop()
    engine.stop()
    assert not psutil.pid_exists(pid)
    assert "Started server process" in (root / "sage-engines.llm.r1" / "output.log").read_text()
    with pytest.raises(ReplicaError):
        asyncio.run(engine.health())


def test_an_engine_that_cannot_start_has_its_cause_in_one_sentence(root: Path) -> None:
    engine = OwnedEngine(plan_of(root, "--fail-with", "out_of_memory"), os.environ)
    engine.start()
    with pytest.raises(ReplicaError, match=r"engine llm on gpu1: .*memory") as raised:
        asyncio.run(engine.ready())
    assert "\n" not in str(raised.value)
    engine.stop()
    with pytest.raises(ReplicaError, match="command begins with no-such-program, which is not in PATH"):
        OwnedEngine(plan_of(root, command=["no-such-program"], replica="r2"), os.environ).start()


def test_an_engine_that_takes_too_long_is_given_up(root: Path) -> None:
    engine = OwnedEngine(plan_of(root, "--load-seconds", "60", start_timeout_s=1), os.environ)
    engine.start()
    with pytest.raises(ReplicaError, match=r"it did not start within 1 s; it was "):
        asyncio.run(engine.ready())
    engine.stop()


def test_the_end_of_a_ready_engine_is_reported_with_its_cause(root: Path) -> None:
    engine = started(plan_of(root))
    ended, causes = threading.Event(), list[str]()

    def note(cause: str) -> None:
        causes.append(cause)
        ended.set()

    engine.watch(note)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert ended.wait(20)
    assert causes == ["engine llm on gpu1: another program ended it with SIGKILL while serving"]
    engine.stop()


def test_an_engine_that_is_frozen_is_not_healthy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_HEALTH_S", 0.5)
    engine = started(plan_of(root))
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ReplicaError, match=r"it is not healthy: did not answer /health within 0\.5 s"):
        asyncio.run(engine.health())
    os.kill(pid, signal.SIGCONT)
    engine.stop()


OWNER = """
import os, sys, time
from pathlib import Path
from sage_inference.cluster import process
process.ORPHAN_S, process._BEAT_S = 1.5, 0.2
from tests.cluster.test_process import plan_of, started
engine = started(plan_of(Path(sys.argv[1])))
print(engine.pid, flush=True)
time.sleep(60)
"""


def test_an_engine_ends_soon_after_its_owner_was_killed_and_not_before(root: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    time.sleep(2.5)  # longer than an engine lives without its owner
    assert psutil.pid_exists(pid)
    children = psutil.Process(pid).children(recursive=True)
    owner.kill()
    owner.wait()
    assert psutil.pid_exists(pid), "streams go on for a while"
    awaited(lambda: not psutil.pid_exists(pid))
    awaited(lambda: not any(child.is_running() for child in children))


def test_replicas_of_one_machine_take_different_ports(root: Path) -> None:
    first, second = PortLease(root, "18400-18403"), PortLease(root, "18400-18403")
    assert {first.range, second.range} == {"18400-18401", "18402-18403"}
    with pytest.raises(FolderError, match="no port of 18400-18403 is free"):
        PortLease(root, "18400-18403")
    first.release()
    assert PortLease(root, "18400-18403").range == first.range


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert root_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (tmp_path / "sage-inference-cluster-12345").mkdir()
    with pytest.raises(FolderError, match="belongs to another user"):
        root_folder()


def test_folders_of_engines_that_ended_long_ago_are_removed(root: Path) -> None:
    for name, age in (("old", 8), ("new", 1)):
        (root / name).mkdir()
        (root / name / "keeper.lock").touch()
        os.utime(root / name, (0, 1_000_000 - age * 86400))
    sweep(root, 1_000_000)
    assert [each.name for each in root.iterdir()] == ["new"]
