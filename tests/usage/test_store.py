"""The usage store as a file: added up, shared, damaged, of another version, not writable."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from sage_inference.usage.columns import MEASURES, Labels, Row, UsageError
from sage_inference.usage.store import UsageStore


def row(hour: int, model: str = "m", requests: int = 1, **labels: str) -> Row:
    given = {"key": "", "user": "", "instance": "a", **labels}
    return Labels(hour, model=model, **given), (requests, *(0,) * (len(MEASURES) - 1))


def requests(store: UsageStore) -> dict[tuple[int, str], float]:
    return {(labels.hour, labels.model): measures[0] for labels, measures in store.rows(0, 1000)}


def test_rows_with_the_same_labels_are_added_up(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")
    store.add([row(1), row(1), row(1, "other")])
    store.add([row(1, requests=3), row(2)])
    assert requests(store) == {(1, "m"): 5, (1, "other"): 1, (2, "m"): 1}
    assert [labels.hour for labels, _ in store.rows(2, 3)] == [2]


def test_hours_are_forgotten_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")
    store.forget(5)
    assert store.rows(0, 10) == []
    assert not store.path.exists()
    store.add([row(4), row(5)])
    store.forget(5)
    assert requests(store) == {(5, "m"): 1}


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")
    store.add([row(1)])
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_gateways_that_share_it_lose_nothing(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")

    def write() -> None:
        for _ in range(10):
            UsageStore(store.path).add([row(1), row(2)])

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert requests(store) == {(1, "m"): 40, (2, "m"): 40}


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_set_aside_and_the_rows_are_kept(tmp_path: Path, content: bytes) -> None:
    store = UsageStore(tmp_path / "usage")
    store.path.write_bytes(content)
    with pytest.raises(UsageError):
        store.rows(0, 10)
    aside = store.add([row(1)])
    assert aside is not None
    assert aside.read_bytes() == content
    assert requests(store) == {(1, "m"): 1}


def test_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")
    store.add([row(1)])
    with sqlite3.connect(store.path) as opened:
        opened.execute("PRAGMA user_version = 99")
    for use in (lambda: store.add([row(1)]), lambda: store.rows(0, 9), lambda: store.forget(9)):
        with pytest.raises(UsageError, match="newer version"):
            use()


def test_a_folder_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    store = UsageStore(tmp_path)
    with pytest.raises(UsageError, match="cannot be used"):
        store.add([row(1)])


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_file_that_may_not_be_written_is_not_damaged(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "usage")
    store.add([row(1)])
    store.path.chmod(0o400)
    with pytest.raises(UsageError):
        store.add([row(1)])
    store.path.chmod(0o600)
    assert requests(store) == {(1, "m"): 1}


def test_a_lock_of_another_process_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_inference.usage.store._BUSY_S", 0.05)
    store = UsageStore(tmp_path / "usage")
    store.add([row(1)])
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UsageError, match="locked"):
        store.add([row(1)])
    holder.execute("ROLLBACK")
    holder.close()
    store.add([row(1)])
    assert requests(store) == {(1, "m"): 2}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("was_used", [False, True])
def test_a_full_disk_is_no_damage_and_is_read(tmp_path: Path, was_used: bool) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store, fill = UsageStore(tmp_path / "usage"), tmp_path / "fill"
        if was_used:
            store.add([row(1)])
        with contextlib.suppress(OSError):
            fill.write_bytes(b"x" * 100_000)
        many = [row(2, f"model-{number}" * 20) for number in range(100)]
        with pytest.raises(UsageError, match="full"):
            store.add(many)
        assert sum(requests(store).values()) == was_used
        assert store.by_key(0) == ({"": (1, 0)} if was_used else {})
        fill.unlink()
        assert store.add(many) is None
        assert sum(requests(store).values()) == 100 + was_used
    finally:
        subprocess.run(["umount", tmp_path], check=True)
