"""How the gateway is, told from outside, and what of it may be signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import admin, control, pidfile
from sage_inference.daemon.errors import NotRunning, ReloadFailed, StopFailed, Unresponsive
from sage_inference.daemon.lock import Lock
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.process import Process
from sage_inference.daemon.restart import restart
from sage_inference.daemon.spawn import start_background
from tests.daemon.test_lock import FLOCK, holder, said
from tests.daemon.test_pidfile import INFO
from tests.support.gateway import free_port


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    monkeypatch.setenv("SAGE_INFERENCE_HOME", str(tmp_path))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    found = Paths.resolve()
    found.state_dir.mkdir()
    yield found
    # One test has the lock held by a foreign program, which has ended by now.
    control.stop(found, force=True)


def running(paths: Paths, **flags: bool) -> PidInfo:
    start_background(paths, Flags(port=free_port(), **flags))  # type: ignore[arg-type]
    info = pidfile.read(paths.pid_file)
    assert info is not None
    return info


def test_nothing_is_stopped_and_stopping_it_again_is_fine(paths: Paths) -> None:
    state = control.inspect(paths)
    assert (state.state, state.exit_code) == ("stopped", 3)
    assert control.stop(paths).result == "not_running"
    with pytest.raises(NotRunning):
        control.reload(paths)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", json.dumps({"pid": os.getpid()}).encode()], ids=["empty", "garbage", "ours"]
)
def test_a_pidfile_left_behind_is_dead_and_stop_cleans_it_up(paths: Paths, content: bytes) -> None:
    paths.pid_file.write_bytes(content)
    state = control.inspect(paths)
    assert (state.state, state.exit_code) == ("dead", 1)
    assert control.stop(paths).result == "cleaned"
    assert control.inspect(paths).state == "stopped"


def test_a_lock_held_by_a_stranger_is_unknown_and_nobody_is_signalled(paths: Paths) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander,
        holder(paths.lock_file, script=FLOCK) as stranger,
    ):
        said(stranger)
        paths.lock_file.write_text(json.dumps({"pid": bystander.pid, "create_time": 1.0}))
        pidfile.write(paths.pid_file, replace(INFO, pid=bystander.pid, create_time=1.0))
        state = control.inspect(paths)
        assert (state.state, state.exit_code) == ("unknown", 4)
        with pytest.raises(StopFailed, match="not the gateway; nothing was signalled"):
            control.stop(paths, force=True)
        assert (bystander.poll(), stranger.poll()) == (None, None)
        bystander.kill()


def test_between_lock_and_pidfile_it_is_starting(paths: Paths) -> None:
    held = Lock.take(paths.lock_file)
    state = control.inspect(paths)
    assert (state.state, state.pid, state.exit_code) == ("starting", os.getpid(), 4)
    held.release()


@pytest.mark.parametrize(("phase", "seen"), [("running", "unresponsive"), ("stopping", "stopping")])
def test_one_that_listens_no_more_is_unresponsive_unless_it_is_stopping(
    paths: Paths, phase: pidfile.Phase, seen: str
) -> None:
    held = Lock.take(paths.lock_file)
    me = Process.current()
    info = replace(INFO, pid=me.pid, create_time=me.create_time, port=free_port(), phase=phase)
    pidfile.write(paths.pid_file, info)
    assert control.inspect(paths).state == seen
    held.release()


def test_status_loads_no_web_stack_and_no_psutil(paths: Paths) -> None:
    running(paths)
    code = """
import sys
from sage_inference.config.paths import Paths
from sage_inference.daemon import control
assert control.inspect(Paths.resolve()).state == "running"
heavy = {"asyncio", "httpx", "uvicorn", "starlette", "psutil", "http", "ssl", "yaml", "platformdirs", "tempfile"}
print(sorted(heavy & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_suspended_one_hangs_and_force_ends_it_with_its_engines(paths: Paths) -> None:
    info = running(paths, simulate=True)
    engines = psutil.Process(info.pid).children(recursive=True)
    assert engines
    os.kill(info.pid, signal.SIGSTOP)
    state = control.inspect(paths)
    assert (state.state, state.exit_code) == ("unresponsive", 4)
    assert "stop --force" in str(state.reason)
    with pytest.raises(StopFailed, match="suspended"):
        control.stop(paths)
    with pytest.raises(Unresponsive):
        control.reload(paths)
    assert control.stop(paths, force=True).result == "killed"
    psutil.wait_procs(engines, timeout=5)
    assert not [engine for engine in engines if engine.is_running() and engine.status() != "zombie"]
    assert control.inspect(paths).state == "stopped"


def test_a_running_request_is_finished_unless_forced(paths: Paths) -> None:
    """A caller that never ends its request keeps the gateway draining, which status says."""
    paths.config_file.write_text("timeouts: {drain_s: 1}\n")
    info = running(paths)
    assert info.drain_s == 1
    assert control.stop(paths, force=True).result == "stopped"


def test_a_reload_says_what_is_wrong_and_takes_a_new_drain_time_over(paths: Paths) -> None:
    running(paths)
    paths.config_file.write_text("timeouts: {drain_s: 7}\n")
    reloaded = control.reload(paths)
    assert (reloaded.settings, reloaded.needs_restart) == (("timeouts.drain_s",), ())
    info = pidfile.read(paths.pid_file)
    assert info is not None
    assert (info.drain_s, info.phase) == (7, "running")
    paths.config_file.write_text("timeouts: {drain: 7}\n")
    with pytest.raises(ReloadFailed, match=r"unknown key timeouts\.drain"):
        control.reload(paths)


def test_status_works_where_keys_are_asked_for(paths: Paths) -> None:
    paths.config_file.write_text("api_keys: [{key: one-of-ours}]\n")
    running(paths)
    assert control.inspect(paths).state == "running"


def test_a_restart_is_refused_before_anything_is_stopped_if_the_configuration_is_bad(paths: Paths) -> None:
    info = running(paths)
    paths.config_file.write_text("nonsense: 1\n")
    with pytest.raises(Exception, match="unknown key nonsense"):
        restart(paths)
    assert control.inspect(paths).pid == info.pid


def test_two_stops_at_once_both_end_well(paths: Paths) -> None:
    running(paths)
    results: list[str] = []
    stops = [threading.Thread(target=lambda: results.append(control.stop(paths).result)) for _ in range(4)]
    for each in stops:
        each.start()
    for each in stops:
        each.join()
    assert set(results) <= {"stopped", "not_running", "cleaned"}
    assert len(results) == 4


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nnot json",
        b"SSH-2.0-OpenSSH\r\n\r\n{}",
        b"HTTP/1.1 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
    ],
    ids=["nothing", "blank", "no body", "no json", "no http", "no status", "cut", "bad length"],
)
def test_an_answer_that_is_none_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):
        admin._parse(raw)
