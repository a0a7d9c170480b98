"""A reload takes over all of a configuration or nothing of it, and reports what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_inference.config.paths import Paths
from sage_inference.config.settings import Flags
from sage_inference.daemon import admin, control, pidfile
from sage_inference.daemon.errors import ReloadFailed
from sage_inference.daemon.spawn import start_background
from tests.support.command import sage
from tests.support.gateway import free_port

BEFORE = "timeouts: {drain_s: 3}\naliases: {old: m}\n"
AFTER = "timeouts: {drain_s: 4}\naliases: {new: m}\nlogging: {level: error}\nscheduling: {policy: round_robin"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def paths(home: Path) -> Iterator[Paths]:
    found = Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(home)})
    found.config_file.write_text(BEFORE)
    start_background(found, Flags(port=free_port()))
    yield found
    control.stop(found, force=True)


def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def below_a_file(tmp_path: Path) -> str:
    (tmp_path / "file").touch()
    return str(tmp_path / "file" / "x" / "record.jsonl")


def no_such_user(tmp_path: Path) -> str:
    return "~nobody42/record.jsonl"


def loop_of_links(tmp_path: Path) -> str:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return str(tmp_path / "loop")


def pipe_without_reader(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path / "pipe")


def too_long(tmp_path: Path) -> str:
    return str(tmp_path / ("x" * 300))


def in_proc(tmp_path: Path) -> str:
    return "/proc/no/record.jsonl"


RECORD_FILES = [folder, below_a_file, no_such_user, loop_of_links, pipe_without_reader, too_long, in_proc]
OTHERS = {
    "key file": "api_keys: [{key: 'file:/no/such'}]\n",
    "key variable": "api_keys: [{key: 'env:NO_SUCH_VARIABLE'}]\n",
    "instance": "instances: [{url: 'ftp://x'}]\n",
    "instance's key": "instances: [{url: 'http://127.0.0.1:1', api_key: 'file:~nobody42/k'}]\n",
    "names": "instances: [{url: 'http://127.0.0.1:1', name: a}, {url: 'http://127.0.0.1:2', name: a}]\n",
    "value": "limits: {queue_requests: many}\n",
}


@pytest.mark.parametrize("place", RECORD_FILES, ids=lambda place: place.__name__)
def test_a_record_file_that_cannot_be_made_is_named_and_changes_nothing(
    paths: Paths, tmp_path: Path, place: Callable[[Path], str]
) -> None:
    where = place(tmp_path)
    says = rf"scheduling\.record_file {where} cannot be written: \w"
    assert_changes_nothing(paths, f"{AFTER}, record_file: {json.dumps(where)}}}\n", says)


@pytest.mark.parametrize("mistake", OTHERS.values(), ids=OTHERS)
def test_any_mistake_changes_nothing(paths: Paths, mistake: str) -> None:
    assert_changes_nothing(paths, f"{AFTER}}}\n{mistake}", ".")


def assert_changes_nothing(paths: Paths, config: str, says: str) -> None:
    before = state(paths)
    paths.config_file.write_text(config)
    try:
        with pytest.raises(ReloadFailed, match=says) as failed:
            control.reload(paths)
        assert failed.value.hint == "nothing was changed; the old configuration stays"
        assert state(paths) == before
    finally:
        paths.config_file.write_text(BEFORE)


def state(paths: Paths) -> object:
    info = pidfile.read(paths.pid_file)
    assert info is not None
    _, status = admin.ask(info, "GET", "/admin/status")
    for moment in ("uptime_s", "requests"):
        del status[moment]
    return info, status, paths.log_file.read_text().count("reloaded: ")


def test_a_record_file_that_can_be_made_is_there_after_the_reload(paths: Paths, tmp_path: Path) -> None:
    record = tmp_path / "new" / "record.jsonl"
    paths.config_file.write_text(f"{BEFORE}scheduling: {{record_file: {record}}}\n")
    control.reload(paths)
    assert record.stat().st_mode & 0o777 == 0o600
    paths.config_file.write_text(BEFORE)
    control.reload(paths)


def test_a_start_with_a_record_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"scheduling: {{record_file: {tmp_path}}}\n")
    for mode in ([], ["--background"]):
        ended = sage(tmp_path, "start", "--port", str(free_port()), *mode)
        assert ended.returncode == 1
        assert f"error: scheduling.record_file {tmp_path} cannot be written: Is a directory" in ended.stderr
        assert sage(tmp_path, "status").returncode == 3
