"""All processes of an engine end with it, and no others."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sage_inference.keeper import files, linux
from sage_inference.keeper.client import (
    EngineEndedError,
    KeeperError,
    KeeperLink,
    LostKeeperError,
    adopt,
    read_exit,
)
from tests.keeper.conftest import PYTHON, Engines, wait_until

# As vLLM: a child in a session of its own that outlives its parent's SIGKILL, and a grandchild that left its parent.
VLLM = """
import os, signal, time
out = os.environ["OUT"]
def note(name):
    with open(f"{out}/{name}", "a") as file: file.write(f"{os.getpid()}\\n")
def count(*_): note("terms")
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, count)
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            note("grandchild")
            while True: time.sleep(60)
        os._exit(0)
    os.wait()
    note("core")
    while True: time.sleep(60)
def ends(*_):
    note("terms")
    if not os.environ.get("DEAF"): os._exit(0)
signal.signal(signal.SIGTERM, ends)
while not os.path.exists(f"{out}/core"): time.sleep(0.01)
note("ready")
while True: time.sleep(60)
"""
STORM = """
import os, time
# Each process forks the next one and ends: it has another pid before a list of pids is read.
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.001)
open(os.environ["OUT"] + "/ready", "w").close()
# And one that starts its child again each time that is killed.
while True:
    if os.fork() == 0:
        time.sleep(60)
    os.wait()
"""


def pid_of(engines: Engines, name: str) -> int:
    file = engines.root / name
    wait_until(lambda: file.read_text().endswith("\n"))  # it is made before it is written
    return int(file.read_text().split()[0])


def terms(engines: Engines) -> list[str]:
    file = engines.root / "terms"
    return file.read_text().split() if file.exists() else []


def test_a_killed_leader_takes_its_children_along(engines: Engines) -> None:
    link = engines.python(VLLM, grace_s=0.3)
    status = link.status()
    core, grandchild = pid_of(engines, "core"), pid_of(engines, "grandchild")
    assert set(status.pids) == {status.engine_pid, core, grandchild}
    assert os.getsid(core) == core
    assert os.getsid(grandchild) == grandchild
    assert status.engine_pid is not None
    os.kill(status.engine_pid, signal.SIGKILL)
    record = link.wait_exit(10)
    assert record is not None
    assert (record.signal, record.ordered) == (signal.SIGKILL, False)
    assert linux.start_ticks(core) is None
    assert linux.start_ticks(grandchild) is None


def test_the_leader_alone_gets_sigterm_and_once(engines: Engines) -> None:
    link = engines.python(VLLM, grace_s=0.5, env={"DEAF": "1"})
    leader = link.status().engine_pid
    link.stop()
    link.stop()
    os.kill(link.keeper_pid, signal.SIGTERM)
    assert link.status().stopping
    record = link.wait_exit(10)
    assert record is not None
    assert (record.signal, record.ordered) == (signal.SIGKILL, True)
    assert terms(engines) == [str(leader)]


def test_a_second_order_shortens_the_grace_and_never_lengthens_it(engines: Engines) -> None:
    link = engines.python(VLLM, env={"DEAF": "1"})
    began = time.monotonic()
    link.stop(60)
    link.stop(0.2)
    link.stop(60)
    assert link.wait_exit(10) is not None
    assert time.monotonic() - began < 5


def test_a_kill_sends_no_sigterm(engines: Engines) -> None:
    link = engines.python(VLLM)
    link.kill()
    record = link.wait_exit(10)
    assert record is not None
    assert (record.signal, record.ordered) == (signal.SIGKILL, True)
    assert terms(engines) == []


def test_processes_that_fork_without_end_are_killed_too(engines: Engines) -> None:
    link = engines.python(STORM)
    link.kill()
    assert link.wait_exit(30) is not None
    assert engines.processes() == []


def test_the_helper_that_removes_shared_memory_may_do_so(engines: Engines) -> None:
    program = """
import os, sys, time
sys.path.extend(p for p in eval(os.environ["PATHS"]) if p)
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
open(os.environ["OUT"] + "/name", "w").write(memory.name)
open(os.environ["OUT"] + "/ready", "w").close()
time.sleep(60)
"""
    link = engines.python(program, env={"PATHS": repr(sys.path)})
    segment = Path("/dev/shm") / (engines.root / "name").read_text()
    assert segment.exists()
    # Until it runs its program, it looks like its parent.
    wait_until(lambda: any(b"resource_tracker" in linux.command_line(pid) for pid in engines.processes()))
    link.kill()
    assert link.wait_exit(10) is not None
    assert not segment.exists()


def test_a_stop_command_is_run_instead_of_the_signal(engines: Engines) -> None:
    stop = ["/bin/sh", "-c", "echo x >> $OUT/stops; kill -USR1 $(cat $OUT/pid)"]
    link = engines.shell(
        "trap 'exit 6' USR1; trap 'echo x >> $OUT/terms' TERM; echo $$ > $OUT/pid;"
        " touch $OUT/ready; while :; do sleep 0.02; done",
        stop_command=stop,
    )
    wait_until((engines.root / "ready").exists)
    link.stop()
    link.stop()
    record = link.wait_exit(10)
    assert record is not None
    assert (record.status, record.ordered) == (6, True)
    assert (engines.root / "stops").read_text() == "x\n"
    assert terms(engines) == []


@pytest.mark.parametrize("stop", [["/nowhere/docker", "stop"], ["/bin/sleep", "60"]])
def test_a_stop_command_that_fails_does_not_save_the_engine(engines: Engines, stop: list[str]) -> None:
    link = engines.shell("exec sleep 60", stop_command=stop, grace_s=0.2)
    link.stop()
    record = link.wait_exit(10)
    assert record is not None
    assert (record.signal, record.ordered) == (signal.SIGKILL, True)


def test_a_client_of_an_engine_elsewhere_that_dies_is_followed_by_the_stop_command(engines: Engines) -> None:
    """`docker run` that is killed leaves its container."""
    link = engines.shell("sleep 0.1; kill -9 $$", stop_command=["/bin/sh", "-c", "echo x >> $OUT/stops"])
    assert link.wait_exit(10) is not None
    assert (engines.root / "stops").read_text() == "x\n"


def guard_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize("deaf", ["", "1"])
def test_a_killed_keeper_leaves_no_engine_that_nobody_owns(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, deaf: str
) -> None:
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.05)
    link = engines.python(VLLM, grace_s=0.5, env={"DEAF": deaf})
    leader = link.status().engine_pid
    os.kill(link.keeper_pid, signal.SIGKILL)
    if deaf:  # the guard ends the engine, and holds the lock meanwhile
        with pytest.raises(LostKeeperError):
            adopt(engines.directory)
    record = link.wait_exit(10)
    wait_until(lambda: not engines.processes())
    assert adopt(engines.directory) is None
    assert record is not None
    assert record == read_exit(engines.directory)
    assert (record.status, record.signal, record.ordered) == (
        (None, signal.SIGKILL, False) if deaf else (0, None, False)
    )
    assert terms(engines) == [str(leader)]


def test_the_keeper_and_its_guard_killed_at_once_end_the_leader(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.1)
    link = engines.shell("trap 'sleep 0.5; exit 0' TERM; touch $OUT/ready; while :; do sleep 0.02; done")
    wait_until((engines.root / "ready").exists)
    guard = guard_of(link.keeper_pid)
    (engines.directory / files.ERRORS).write_text("Traceback ...\nMemoryError\n")
    os.kill(guard, signal.SIGSTOP)
    os.kill(link.keeper_pid, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    with pytest.raises(LostKeeperError):  # as long as a process of the engine lives
        adopt(engines.directory)
    wait_until(lambda: not engines.processes())
    assert adopt(engines.directory) is None
    with pytest.raises(LostKeeperError, match="left no record of the engine's end: MemoryError"):
        link.wait_exit(10)


def test_a_killed_guard_leaves_a_keeper_that_works(engines: Engines) -> None:
    link = engines.shell("exec sleep 60")
    os.kill(guard_of(link.keeper_pid), signal.SIGKILL)
    link.beat()
    link.stop()
    record = link.wait_exit(10)
    assert record is not None
    assert record.ordered


def test_sigterm_to_the_guard_stops_the_engine_in_order(engines: Engines) -> None:
    """systemd sends it to the unit's main process."""
    link = engines.python(VLLM, grace_s=0.5)
    leader = link.status().engine_pid
    os.kill(guard_of(link.keeper_pid), signal.SIGTERM)
    record = link.wait_exit(10)
    assert record is not None
    assert (record.status, record.ordered) == (0, True)
    assert terms(engines) == [str(leader)]


def test_processes_beside_the_engine_live_on(engines: Engines) -> None:
    """A neighbour in the same session group as the launcher, and another keeper's engine."""
    neighbour = subprocess.Popen(["sleep", "60"])
    other = engines.shell("exec sleep 60", directory=str(engines.root / "engines" / "other"))
    engines.python(VLLM).kill()
    wait_until(lambda: adopt(engines.directory) is None)
    assert neighbour.poll() is None
    assert other.status().exit is None
    neighbour.kill()
    neighbour.wait()


TREE = """
import ctypes, os, random, signal, sys, time
rng = random.Random(int(sys.argv[1]))
def grow(depth):
    for _ in range(rng.randrange(4) if depth else 3):
        rng.random()
        if os.fork() == 0:
            rng.seed(rng.random() + os.getpid())
            if rng.random() < 0.5: os.setsid()
            if rng.random() < 0.3: ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # a subreaper, as a container's init
            if rng.random() < 0.5: signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if depth < 3: grow(depth + 1)
            if rng.random() < 0.4: os._exit(0)
            time.sleep(60)
            os._exit(0)
grow(0)
open(os.environ["OUT"] + "/ready", "w").close()
if rng.random() < 0.5: time.sleep(60)
"""


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), ending=st.sampled_from(["stop", "kill", "leader", "keeper"]))
def test_any_tree_ends_whole(engines: Engines, seed: int, ending: str) -> None:
    (engines.root / "ready").unlink(missing_ok=True)
    try:
        link = engines.launch(*PYTHON, TREE, str(seed), grace_s=0.1)
    except EngineEndedError:  # its leader ended before the keeper was asked
        wait_until(lambda: not engines.processes())
        return
    time.sleep(random.Random(seed).random() * 0.05)
    leader = link.first.engine_pid
    assert leader is not None
    if ending == "leader":
        try:
            os.kill(leader, signal.SIGKILL)
        except ProcessLookupError:
            pass
    elif ending == "keeper":
        os.kill(link.keeper_pid, signal.SIGKILL)
    else:
        (link.stop if ending == "stop" else link.kill)()
    assert link.wait_exit(20) is not None
    wait_until(lambda: not engines.processes())
    assert files.is_held(str(engines.directory)) is False


ORDERS = (
    "stop",
    "stop now",
    "kill",
    "beat",
    "status",
    "term keeper",
    "term guard",
    "kill core",
    "kill leader",
)


def give(engines: Engines, link: KeeperLink, order: str) -> None:
    """Any of these may come when the keeper has ended already."""
    with contextlib.suppress(KeeperError, ProcessLookupError, FileNotFoundError):
        match order.split():
            case ["stop"]:
                link.stop(0.3)
            case ["stop", _]:
                link.stop(0)
            case ["kill"]:
                link.kill()
            case ["beat"]:
                link.beat()
            case ["status"]:
                assert link.status().keeper_pid == link.keeper_pid
            case ["term", "keeper"]:
                signal_ours(engines, link.keeper_pid, signal.SIGTERM)
            case ["term", _]:
                signal_ours(engines, guard_of(link.keeper_pid), signal.SIGTERM)
            case [_, "core"]:
                signal_ours(engines, pid_so_far(engines, "core"), signal.SIGKILL)
            case _:
                signal_ours(engines, pid_so_far(engines, "ready"), signal.SIGKILL)


def pid_so_far(engines: Engines, name: str) -> int | None:
    """None if the process was ended between the making and the writing of its file."""
    text = (engines.root / name).read_text()
    return int(text.split()[0]) if text.endswith("\n") else None


def signal_ours(engines: Engines, pid: int | None, number: int) -> None:
    if pid is not None and pid in engines.processes():
        os.kill(pid, number)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=st.lists(st.sampled_from(ORDERS), max_size=6), deaf=st.booleans())
def test_orders_in_any_sequence_end_in_order(engines: Engines, orders: list[str], deaf: bool) -> None:
    for name in ("ready", "core", "grandchild", "terms"):
        (engines.root / name).unlink(missing_ok=True)
    link = engines.python(VLLM, grace_s=0.3, env={"DEAF": "1" if deaf else ""})
    leader = str(link.first.engine_pid)
    for order in [*orders, "kill"]:
        give(engines, link, order)
    record = link.wait_exit(20)
    assert record is not None
    assert record == read_exit(engines.directory)
    assert not engines.processes()
    assert set(terms(engines)) <= {leader}
    assert len(terms(engines)) <= 1
