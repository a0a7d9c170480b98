"""A keeper from the launch of its engine to the record of its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sage_inference.keeper import files
from sage_inference.keeper.client import (
    AlreadyKeptError,
    EngineEndedError,
    KeeperError,
    KeeperLink,
    LostKeeperError,
    adopt,
    directories,
    launch,
    read_exit,
    stop_all,
)
from sage_inference.keeper.spec import ExitRecord
from tests.keeper.conftest import Engines, descriptors, wait_until

FOREVER = "exec sleep 60"


def test_an_engine_is_started_found_and_stopped(engines: Engines, tmp_path: Path) -> None:
    link = engines.shell(FOREVER, spec_hash="abc", about={"model": "tiny"})
    status = link.status()
    assert (status.spec_hash, status.about, status.exit) == ("abc", {"model": "tiny"}, None)
    assert status.pids == [status.engine_pid]
    assert directories(tmp_path) == [engines.directory]
    with adopt(engines.directory) or link as again:
        assert (again.keeper_pid, again.first) == (link.keeper_pid, status)
    link.stop()
    record = link.wait_exit(10)
    assert record is not None
    assert (record.status, record.signal, record.ordered) == (None, signal.SIGTERM, True)
    assert adopt(engines.directory) is None
    assert read_exit(engines.directory) == record
    assert not (engines.directory / files.SOCKET).exists()


def test_only_the_owner_can_read_the_files(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_INFERENCE_API_KEY", "opensesame")
    engines.directory.mkdir(parents=True, mode=0o755)
    link = engines.shell("echo out; exec sleep 60", secrets=["opensesame"], env={"HF_TOKEN": "opensesame"})
    assert b"opensesame" not in Path(f"/proc/{link.keeper_pid}/environ").read_bytes()
    link.kill()
    link.wait_exit(10)
    assert engines.directory.stat().st_mode & 0o777 == 0o700
    for file in engines.directory.iterdir():
        assert file.stat().st_mode & 0o177 == 0, file
        assert b"opensesame" not in file.read_bytes()


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [
        ("exit 0", 0, None),
        ("kill -9 $$", None, signal.SIGKILL),
        ("trap 'exit 0' TERM; kill -TERM $$", 0, None),
    ],
)
def test_an_end_that_nobody_ordered_is_recorded(
    engines: Engines, script: str, status: int | None, number: int | None
) -> None:
    began = time.time()
    link = engines.shell(f"sleep 0.1; {script}")
    record = link.wait_exit(10)
    assert record is not None
    assert (record.status, record.signal, record.ordered, record.oom_killed) == (status, number, False, False)
    assert began <= record.at <= time.time()
    assert read_exit(engines.directory) == link.exit == record


def test_an_end_right_after_the_start_is_reported_with_its_record(engines: Engines) -> None:
    """Whether the keeper can still be asked is a race that both outcomes of ``launch`` allow."""
    record = None
    try:
        record = engines.shell("exit 7").wait_exit(10)
    except EngineEndedError as error:
        record = error.record
    assert record is not None
    assert record.status == 7


CANNOT_RUN: list[tuple[list[str], str | None, str]] = [
    (["/nowhere/vllm"], None, "/nowhere/vllm cannot be run: No such file or directory"),
    (["vllm-that-is-missing"], None, "vllm-that-is-missing cannot be run: No such file or directory"),
    (["/etc/passwd"], None, "/etc/passwd cannot be run: Permission denied"),
    (["/bin/sh"], "/nowhere", "/nowhere cannot be entered: No such file or directory"),
    (["/bin/sh\0"], None, "cannot be run: Invalid argument"),
    (["/bin/sh", "x" * (1 << 20)], None, "/bin/sh cannot be run: Argument list too long"),
    ([], None, "has no command"),
]


def test_a_command_that_cannot_run_is_an_error(engines: Engines) -> None:
    for argv, cwd, words in CANNOT_RUN:
        with pytest.raises(KeeperError) as raised:
            engines.launch(*argv, cwd=cwd)
        assert words in str(raised.value)
        wait_until(lambda: not files.is_held(str(engines.directory)))
    wait_until(lambda: not engines.processes())
    assert adopt(engines.directory) is None


def test_the_engine_gets_its_own_environment_session_and_signals(engines: Engines, tmp_path: Path) -> None:
    link = engines.shell(
        "env > $OUT/env; pwd > $OUT/pwd; cat /proc/self/status > $OUT/signals; ls /proc/self/fd > $OUT/fds;"
        f"touch $OUT/ready; {FOREVER}",
        env={"LANG": "C", "EMPTY": "", "ODD": "a\nb=c"},
    )
    wait_until((tmp_path / "ready").exists)
    env = (tmp_path / "env").read_text()
    assert "ODD=a\nb=c\n" in env
    assert "PYTHON" not in env
    assert "HOME" not in env
    assert (tmp_path / "pwd").read_text().strip() == str(engines.directory)
    states = dict(line.split(":\t", 1) for line in (tmp_path / "signals").read_text().splitlines())
    assert int(states["SigBlk"], 16) == int(states["SigIgn"], 16) == 0
    # Standard streams, the lock, and the directory that ls reads.
    assert len((tmp_path / "fds").read_text().split()) == 5
    pid = link.status().engine_pid
    assert pid is not None
    assert os.getsid(pid) == pid


def test_of_parallel_launches_one_starts_an_engine(engines: Engines) -> None:
    links: list[KeeperLink] = []
    refused: list[KeeperError] = []

    def start() -> None:
        try:
            links.append(engines.shell("echo x >> $OUT/starts; exec sleep 60"))
        except AlreadyKeptError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(links), len(refused)) == (1, 3)
    assert "runs already" in str(refused[0])
    wait_until((engines.root / "starts").exists)
    assert (engines.root / "starts").read_text() == "x\n"
    with adopt(engines.directory) or links[0] as again:
        assert again.keeper_pid == links[0].keeper_pid


def test_the_keeper_outlives_its_launcher(engines: Engines) -> None:
    document = engines.spec("/bin/sh", "-c", FOREVER).as_document()
    program = (
        "import json, os, sys, signal\n"
        "from sage_inference.keeper.client import launch\n"
        "from sage_inference.keeper.spec import KeeperSpec\n"
        "launch(KeeperSpec(**json.loads(sys.argv[1])), 'plain')\n"
        "os.killpg(0, signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, json.dumps(document)], start_new_session=True, check=False, timeout=30
    )
    assert ended.returncode == -signal.SIGKILL
    link = adopt(engines.directory)
    assert link is not None
    with link:
        assert link.status().exit is None
        link.kill()
        assert link.wait_exit(10) == read_exit(engines.directory)


def test_a_gateway_that_does_not_come_back_costs_the_engine_its_life(engines: Engines) -> None:
    link = engines.shell(FOREVER, orphan_timeout_s=0.8)
    for _ in range(5):
        time.sleep(0.2)
        link.beat()
    assert link.look() is None
    began = time.monotonic()
    record = link.wait_exit(10)
    assert record is not None
    assert record.ordered
    assert 0.5 < time.monotonic() - began < 10
    assert "no gateway for 0.8 s" in (engines.directory / files.LOG).read_text()


def test_the_connection_shows_the_end_of_the_engine_and_then_of_the_keeper(engines: Engines) -> None:
    link = engines.shell("(trap '' TERM; sleep 60) & sleep 0.2; exit 4", grace_s=0.4)
    wait_until(lambda: link.look() is not None)
    assert (link.exit and link.exit.status, link.ended) == (4, False)
    status = link.status()
    assert (status.engine_pid, status.exit) == (None, link.exit)
    assert status.pids
    assert link.wait_exit(10) == link.exit
    assert link.ended
    with pytest.raises(KeeperError, match="does not answer"):
        link.status()


def test_waiting_for_the_end_takes_no_longer_than_asked(engines: Engines) -> None:
    link = engines.shell(FOREVER)
    began = time.monotonic()
    assert link.wait_exit(0.1) is None
    assert time.monotonic() - began < 2


FOREIGN = [
    ("boot_id", "of-another-boot", "another boot"),
    ("start_ticks", 1, "is not the process"),
    ("keeper_pid", 1, "is not the process"),
    ("keeper_pid", 99999999, "is not the process"),
    ("keeper_pid", os.getppid(), "is not the process"),
    ("socket", "elsewhere.sock", "No such file"),
    ("socket", 5, "No such file"),
    ("grace_s", None, "does not prove"),
]


def test_a_record_that_does_not_fit_is_refused(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a reboot, or with a pid that was used again."""
    link = engines.shell(FOREVER)
    document = files.read(str(engines.directory), files.ENGINE)
    assert document is not None
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.05)
    for key, value, words in FOREIGN:
        files.write(str(engines.directory), files.ENGINE, document | {key: value})
        with pytest.raises(LostKeeperError, match=words):
            adopt(engines.directory)
    files.write(str(engines.directory), files.ENGINE, document)
    assert link.status().exit is None


def test_a_lock_that_something_else_holds_is_lost(
    engines: Engines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.1)
    engines.directory.mkdir(parents=True)
    lock = files.take_lock(str(engines.directory))
    assert lock is not None
    with pytest.raises(LostKeeperError, match=r"left no engine\.json"):
        adopt(engines.directory)
    (engines.directory / files.ENGINE).write_text("{broken")
    with pytest.raises(LostKeeperError, match="does not prove"):
        adopt(engines.directory)
    with pytest.raises(AlreadyKeptError):
        engines.shell(FOREVER)
    assert stop_all(tmp_path) == []
    os.close(lock)
    assert adopt(engines.directory) is None


def test_a_suspended_keeper_is_lost_and_comes_back(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_inference.keeper.client._QUESTION_S", 0.15)
    link = engines.shell(FOREVER)
    os.kill(link.keeper_pid, signal.SIGSTOP)
    with pytest.raises(LostKeeperError, match="timed out"):
        adopt(engines.directory)
    with pytest.raises(KeeperError, match="timed out"):
        link.beat()
    os.kill(link.keeper_pid, signal.SIGCONT)
    link.beat()


def test_a_dead_engine_left_a_record_and_an_old_one_is_not_taken_for_it(engines: Engines) -> None:
    assert read_exit(engines.directory) is None
    engines.shell("sleep 0.1; exit 5").wait_exit(10)
    assert read_exit(engines.directory) is not None
    link = engines.shell(FOREVER)
    assert read_exit(engines.directory) is None
    link.kill()
    record = link.wait_exit(10)
    assert isinstance(record, ExitRecord)
    assert record.signal == signal.SIGKILL


def test_all_engines_stop_at_the_same_time(engines: Engines, tmp_path: Path) -> None:
    slow = "trap 'sleep 0.7; exit 0' TERM; touch $OUT/ready.$NUMBER; while :; do sleep 0.02; done"
    for number in range(3):
        directory = str(tmp_path / "engines" / f"e{number}")
        engines.shell(slow, directory=directory, name=f"{engines.name}", env={"NUMBER": str(number)})
    wait_until(lambda: len(list(tmp_path.glob("ready.*"))) == 3)
    (tmp_path / "engines" / "never-started").mkdir()
    began = time.monotonic()
    assert stop_all(tmp_path) == ["e0", "e1", "e2"]
    assert time.monotonic() - began < 2.05
    assert stop_all(tmp_path) == []


def test_cycles_of_launch_and_stop_leave_nothing(engines: Engines) -> None:
    before = descriptors()
    for number in range(4):
        with launch(engines.spec("/bin/sh", "-c", FOREVER), "plain") as link:
            (link.kill if number % 2 else link.stop)()
            assert link.wait_exit(10) is not None
    assert descriptors() == before
    wait_until(lambda: not engines.processes())
    assert {file.name for file in engines.directory.iterdir()} <= {
        files.ENGINE,
        files.ERRORS,
        files.EXIT,
        files.LOCK,
        files.LOG,
    }


def test_the_keeper_runs_on_when_its_program_is_removed(engines: Engines, tmp_path: Path) -> None:
    """As by an upgrade: it must have loaded all that it needs."""
    root = tmp_path / "old version"
    package = Path(files.__file__).parent.parent
    for room in ("keeper", "log_files"):
        (root / "sage_inference").mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", package / room, root / "sage_inference"], check=True)
    for file in ("__init__.py", "_version.py"):
        subprocess.run(["cp", package / file, root / "sage_inference"], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sage_inference.keeper.launching._ROOT", str(root))
        link = engines.shell("(trap '' TERM; sleep 60) & echo out; exec sleep 60", grace_s=0.2)
    subprocess.run(["rm", "-r", root], check=True)
    assert link.status().exit is None
    link.stop()
    record = link.wait_exit(10)
    assert record is not None
    assert record.ordered
    assert (engines.directory / files.ERRORS).read_text() == ""
