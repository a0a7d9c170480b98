"""Somebody removes the gateway's files while it runs: it is still found, is no second time, and puts them back."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import control, lock, pidfile
from sage_inference.daemon.errors import AlreadyRunning
from sage_inference.daemon.pidfile import PidInfo
from sage_inference.daemon.restart import restart
from sage_inference.daemon.spawn import start_background
from tests.support.command import sage
from tests.support.gateway import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs names in the kernel")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("home")
    start_background(paths_of(found), Flags(port=free_port()))
    yield found
    control.stop(paths_of(found), force=True)


def paths_of(home: Path) -> Paths:
    return Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})


def info_of(paths: Paths) -> PidInfo:
    info = control.inspect(paths).info
    assert info is not None
    return info


def content(home: Path) -> None:
    for file in (home / "state").iterdir():
        file.unlink()


def folder(home: Path) -> None:
    shutil.rmtree(home / "state")


def everything(home: Path) -> None:
    for each in home.iterdir():
        shutil.rmtree(each)


def lock_only(home: Path) -> None:
    (home / "state" / "inference.lock").unlink()


def pidfile_only(home: Path) -> None:
    (home / "state" / "inference.json").unlink()


def lock_replaced(home: Path) -> None:
    lock_only(home)
    (home / "state" / "inference.lock").touch()


def pidfile_replaced(home: Path) -> None:
    pidfile_only(home)
    (home / "state" / "inference.json").write_text('{"pid": 1}')


def moved(home: Path) -> None:
    (home / "state").rename(home.parent / f"moved-{time.monotonic_ns()}")


CLEANERS = [content, folder, everything, lock_only, pidfile_only, lock_replaced, pidfile_replaced, moved]


def locked(paths: Paths) -> bool:
    """Whether the file that lies there is locked, whatever the name in the kernel says."""
    try:
        with paths.lock_file.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("clean", CLEANERS, ids=lambda clean: clean.__name__)
def test_a_cleaned_gateway_is_found_and_puts_its_files_back(
    home: Path, clean: Callable[[Path], None]
) -> None:
    paths = paths_of(home)
    before = info_of(paths)
    clean(home)
    state = control.inspect(paths)
    assert (state.state, state.pid) == ("running", before.pid)
    with pytest.raises(AlreadyRunning) as refused:
        start_background(paths, Flags(port=free_port()))
    assert refused.value.pid == before.pid
    wait_until(lambda: pidfile.read(paths.pid_file) == before and locked(paths))
    assert lock.look(paths.lock_file).holder == before.process
    for file in (paths.lock_file, paths.pid_file):
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("clean", [content, everything], ids=lambda clean: clean.__name__)
def test_a_cleaned_gateway_restarts(home: Path, clean: Callable[[Path], None]) -> None:
    paths = paths_of(home)
    before = info_of(paths)
    clean(home)
    restarted = restart(paths)
    assert restarted.started.pid != before.pid
    assert control.inspect(paths).pid == restarted.started.pid
    wait_until(lambda: pidfile.read(paths.pid_file) == info_of(paths))


def test_a_suspended_gateway_whose_files_are_gone_is_known_by_its_name(home: Path) -> None:
    paths = paths_of(home)
    before = info_of(paths)
    os.kill(before.pid, signal.SIGSTOP)
    try:
        folder(home)
        state = control.inspect(paths)
        assert (state.state, state.info) == ("unresponsive", before)
        with pytest.raises(AlreadyRunning):
            start_background(paths, Flags(port=free_port()))
    finally:
        os.kill(before.pid, signal.SIGCONT)
    wait_until(lambda: pidfile.read(paths.pid_file) == before)


def test_a_folder_that_cannot_be_made_anew_is_logged_and_does_no_harm(home: Path) -> None:
    paths = paths_of(home)
    before = info_of(paths)
    folder(home)
    paths.state_dir.touch()
    wait_until(lambda: "cannot be put back" in paths.log_file.read_text())
    paths.state_dir.unlink()
    wait_until(lambda: pidfile.read(paths.pid_file) == before)


def test_the_commands_find_a_gateway_whose_home_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    start = ("start", "--background", "--port", str(free_port()))
    assert sage(home, *start).returncode == 0
    pid = info_of(paths_of(home)).pid
    shutil.rmtree(home)
    assert json.loads(sage(home, "status", "--json").stdout)["pid"] == pid
    shutil.rmtree(home, ignore_errors=True)
    assert f"already running (pid {pid})" in sage(home, *start).stderr
    shutil.rmtree(home, ignore_errors=True)
    assert sage(home, "logs").returncode == 0
    shutil.rmtree(home, ignore_errors=True)
    assert sage(home, "stop").stdout == f"stopped (pid {pid})\n"
    assert sage(home, "status").returncode == 3
