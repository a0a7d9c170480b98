"""Who holds the lock, as other processes see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sage_inference.daemon import lock
from sage_inference.daemon.errors import AlreadyRunning, DaemonError
from sage_inference.daemon.lock import Lock
from sage_inference.daemon.process import Process

HOLD = """
import subprocess, sys
from pathlib import Path
from sage_inference.daemon.lock import Lock
held = Lock.take(Path(sys.argv[1]))
child = subprocess.Popen(["sleep", "60"], close_fds=False) if sys.argv[2:] else None
print(child.pid if child else "held", flush=True)
sys.stdin.read()
held.release()
"""
FLOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path, *args: str, script: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, str(path), *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as first:
        said(first)
        with pytest.raises(AlreadyRunning, match=f"already running .pid {first.pid}.") as refused:
            Lock.take(path)
        assert refused.value.pid == first.pid
        assert lock.look(path) == lock.Holding(True, Process(first.pid, lock.look(path).holder.create_time))  # type: ignore[union-attr]


def test_a_killed_holder_leaves_its_name_and_the_lock_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as first:
        said(first)
        first.kill()
        first.wait()
        left = lock.look(path)
        assert (left.held, left.left_behind) == (False, True)
        Lock.take(path).release()
    assert lock.look(path) == lock.Holding(False, None)


def test_a_child_of_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, "with a child") as first:
        child = int(said(first))
        first.kill()
        first.wait()
        assert not lock.look(path).held
        os.kill(child, 9)


def test_looking_does_not_take_the_lock_from_a_start(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    Lock.take(path).release()
    looking = f"""
from pathlib import Path
from sage_inference.daemon import lock
print("go", flush=True)
while True:
    lock.look(Path({str(path)!r}))
"""
    with holder(path, script=looking) as busy:
        said(busy)
        for _ in range(200):
            Lock.take(path).release()


@pytest.mark.parametrize("content", ["", "garbage", "[]", '{"pid": "x"}', '{"pid": 1}', "\0" * 64])
def test_a_garbled_lock_file_names_nobody_and_can_be_taken(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    path.write_text(content)
    assert lock.look(path) == lock.Holding(False, None)
    Lock.take(path).release()


def test_a_foreign_holder_is_not_taken_for_the_one_named_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    me = Process.current()
    path.write_text(json.dumps({"pid": me.pid, "create_time": me.create_time - 100}))
    with holder(path, script=FLOCK) as foreign:
        said(foreign)
        with pytest.raises(AlreadyRunning) as refused:
            Lock.take(path)
    assert refused.value.pid is None


def test_cleaning_up_is_refused_while_somebody_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    done: list[int] = []
    with holder(path) as first:
        said(first)
        assert not lock.clean_up(path, lambda: done.append(1))
    assert not done
    assert lock.clean_up(path, lambda: done.append(1))
    assert done == [1]


def test_the_lock_file_is_for_its_owner_and_no_symlink(tmp_path: Path) -> None:
    Lock.take(tmp_path / "lock").release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DaemonError, match="cannot be opened"):
        Lock.take(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
