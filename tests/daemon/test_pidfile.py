"""The pidfile: written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.daemon import pidfile
from sage_inference.daemon.pidfile import PidInfo

INFO = PidInfo(
    pid=4121,
    create_time=12.5,
    host="127.0.0.1",
    port=8000,
    config_path="/c/config.yaml",
    log_path="/l/inference.log",
    version="0.1.0",
    started_at=1.0,
    admin_token="token-of-the-run",
    flags={"port": 8000},
)


def test_what_is_written_is_read_back_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "pid.json"
    path.write_text("what was there before")
    path.chmod(0o644)
    pidfile.write(path, INFO)
    assert pidfile.read(path) == INFO
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "pid.json"
    pidfile.write(path, INFO)
    with pytest.raises(TypeError):
        pidfile.write(path, replace(INFO, flags={"port": object()}))
    assert pidfile.read(path) == INFO
    assert list(tmp_path.iterdir()) == [path]


def test_the_admin_token_is_not_in_its_repr() -> None:
    assert "token-of-the-run" not in repr(INFO)


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert pidfile.read(tmp_path / "none") is None
    assert pidfile.read(tmp_path) is None


@pytest.mark.parametrize(
    "change", [{"pid": "1"}, {"pid": True}, {"port": None}, {"host": 5}, {"flags": []}, {"create_time": "x"}]
)
def test_a_value_of_another_type_makes_it_no_pidfile(change: dict[str, object]) -> None:
    assert pidfile.parse(json.dumps(asdict(INFO) | change).encode()) is None


def test_keys_of_a_newer_version_are_passed_over_and_newer_defaults_filled_in() -> None:
    document = asdict(INFO) | {"colour": "green"}
    del document["phase"]
    assert pidfile.parse(json.dumps(document).encode()) == INFO


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_garbage_is_none(raw: bytes) -> None:
    assert pidfile.parse(raw) is None


def test_deeply_nested_garbage_is_none() -> None:
    assert pidfile.parse(b"[" * 100_000) is None


def test_a_pipe_is_none_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pidfile")
    assert pidfile.read(tmp_path / "pidfile") is None
