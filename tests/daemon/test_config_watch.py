"""A configuration file that is watched: changes are applied as a reload does, and nothing that is only half there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.load import load
from sage_inference.daemon.config_watch import ConfigWatch
from tests.support.gateway import Gateway, running_gateway

LOG_S = 15.0
SECOND = '{"aliases": {"second": "m"}}'


# The watch by itself


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text('{"aliases": {"first": "m"}}')
    return file


@pytest.fixture
def watch(file: Path) -> ConfigWatch:
    watch = ConfigWatch(file)
    watch.read(lambda: load(file))
    return watch


def looks(watch: ConfigWatch, count: int = 3) -> list[bool]:
    return [watch.look() for _ in range(count)]


def by_rename(file: Path) -> None:
    draft = file.with_name("draft")
    draft.write_text(SECOND)
    draft.replace(file)


def behind_a_backup(file: Path) -> None:
    """As vim does."""
    file.rename(file.with_name("config.yaml~"))
    file.write_text(SECOND)


def in_the_same_size_and_time(file: Path) -> None:
    before = file.stat()
    file.write_text(file.read_text().replace("first", "third"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_a_link(file: Path) -> None:
    """As managers of dotfiles do."""
    file.with_name("second").write_text(SECOND)
    file.unlink()
    file.symlink_to("second")


def by_a_link_of_a_folder(file: Path) -> None:
    """As Kubernetes does."""
    folder = file.parent
    for name in ("..1", "..2"):
        (folder / name).mkdir()
        (folder / name / file.name).write_text(SECOND)
    (folder / "..data").symlink_to("..1")
    file.unlink()
    file.symlink_to(Path("..data") / file.name)
    (folder / "..new").symlink_to("..2")
    (folder / "..new").replace(folder / "..data")


@pytest.mark.parametrize(
    "write", [by_rename, behind_a_backup, in_the_same_size_and_time, by_a_link, by_a_link_of_a_folder]
)
def test_every_way_to_write_is_noticed_once_the_file_is_quiet(
    write: Callable[[Path], None], watch: ConfigWatch, file: Path
) -> None:
    assert looks(watch) == [False] * 3
    write(file)
    assert looks(watch, 2) == [False, True]
    watch.read(lambda: load(file))
    assert looks(watch) == [False] * 3


def test_a_file_that_grows_is_read_when_it_has_ended(watch: ConfigWatch, file: Path) -> None:
    """Each beginning of it is valid, so what it says is no sign."""
    lines = ["llm_model: m", "aliases: {a: m}", "limits: {connections: 9}"]
    file.write_text("")
    with file.open("a") as growing:
        for line in lines:
            print(line, file=growing, flush=True)
            assert not watch.look()
    assert watch.look()


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_file_that_is_gone_or_empty_changes_nothing(
    how: str, watch: ConfigWatch, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = file.read_text()
    for _ in range(2):
        caplog.clear()
        if how == "gone":
            file.rename(file.with_name("away"))
        else:
            file.write_text("")
        assert looks(watch, 5) == [False] * 5
        [record] = caplog.records
        assert f"is {how}: the old settings stay" in record.getMessage()
        file.write_text(before)
        assert looks(watch, 2) == [False, True]
        watch.read(lambda: load(file))


def test_a_file_with_a_mistake_is_read_once(watch: ConfigWatch, file: Path) -> None:
    file.write_text("aliases: [")
    assert looks(watch, 2) == [False, True]
    with pytest.raises(Exception, match=r"config\.yaml"):
        watch.read(lambda: load(file))
    assert looks(watch) == [False] * 3


def test_files_that_it_names_are_watched_too(watch: ConfigWatch, file: Path, tmp_path: Path) -> None:
    key, authority = tmp_path / "key", tmp_path / "ca.pem"
    key.write_text("one")
    authority.write_text("one")
    instance = {"url": "https://127.0.0.1:9", "ca_file": str(authority)}
    file.write_text(json.dumps({"api_keys": [{"key": f"file:{key}"}], "instances": [instance]}))
    watch.read(lambda: load(file))
    for named in (key, authority):
        assert looks(watch) == [False] * 3
        named.write_text("other")
        assert looks(watch, 2) == [False, True]
        watch.read(lambda: load(file))
    key.unlink()
    assert looks(watch, 2) == [False, True]  # the reload reports what is wrong


# A gateway


class Log:
    """The gateway's log since the last look."""

    def __init__(self, g: Gateway) -> None:
        self._file = g.paths.log_file
        self._seen = 0

    def until(self, words: str) -> str:
        deadline = time.monotonic() + LOG_S
        while words not in (new := self._file.read_text()[self._seen :]):
            assert time.monotonic() < deadline, new
            time.sleep(0.02)
        self._seen += len(new)
        return new


def test_a_gateway_applies_what_a_reload_would_and_keeps_the_rest() -> None:
    def text(**more: Any) -> str:
        return json.dumps({"server": {"watch_config": True}, **more})

    with running_gateway(config={"server": {"watch_config": True}}) as g:
        file, log = g.home / "config.yaml", Log(g)
        file.write_text(
            text(aliases={"a": "m"}, limits={"max_n": 3}, server={"host": "localhost", "watch_config": True})
        )
        line = log.until("reloaded: ")
        assert "settings aliases, limits.max_n; only at the next restart server.host" in line
        file.write_text("scheduling: {polcy: random}")
        assert "Traceback" not in log.until("configuration not applied, the old one stays")
        file.rename(file.with_name("away"))
        log.until("is gone: the old settings stay")
        file.write_text(text(scheduling={"policy": "random"}))
        log.until("reloaded: settings aliases, scheduling.policy, limits.max_n")
        assert g.status()["policy"] == "random"
        file.write_text("{}")
        log.until("reloaded: settings server.watch_config")
        file.write_text("scheduling: {polcy: random}")
        time.sleep(1.2)  # two looks and more, if there were any
        assert log.until("") == ""
