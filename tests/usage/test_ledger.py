"""The record of usage over crashes, with its reserve: nothing twice, nothing lost."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_inference.usage.columns import MEASURES, Labels, Row, UsageError
from sage_inference.usage.ledger import UsageLedger
from sage_inference.usage.reserve import SLOT, opened, reserve_of
from sage_inference.usage.store import UsageStore

HOUR = 24 * 20_000


def row(requests: int = 1, user: str = "", hour: int = HOUR) -> Row:
    return Labels(hour, "key", user, "m", "a"), (requests, 0, 0, 7, *(0,) * (len(MEASURES) - 4))


def total(ledger: UsageLedger) -> int:
    return int(sum(measures[0] for _, measures in ledger.rows(0, 10**6)))


class Disk:
    """A store that can be made unusable: a folder in its place."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "usage.sqlite3"
        self.ledger = UsageLedger(self.path)

    def close(self) -> None:
        if self.path.exists():
            self.path.rename(self.path.with_name("away"))
        self.path.mkdir()

    def open(self) -> None:
        self.path.rmdir()
        away = self.path.with_name("away")
        if away.exists():
            away.rename(self.path)


def test_the_reserve_is_private_and_takes_its_room_at_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.ledger.add([row()])
    found = reserve_of(disk.path).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o600, 2 * SLOT)
    assert found.st_blocks * 512 >= 2 * SLOT


def test_what_is_in_the_reserve_is_read_and_then_stored_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.ledger.add([row(5)])
    disk.close()
    assert disk.ledger.add([row(2)]).reserved == 2
    assert disk.ledger.add([row(1, "ada")]).reserved == 3
    disk.open()
    assert total(disk.ledger) == 8
    assert disk.ledger.by_key(HOUR // 24) == {"key": (8, 21)}
    assert disk.ledger.by_key(1) == {}
    assert disk.ledger.rows(0, HOUR) == []
    assert disk.ledger.add([]).problem is None
    assert sum(measures[0] for _, measures in UsageStore(disk.path).rows(0, 10**6)) == total(disk.ledger) == 8


def test_a_crash_between_the_store_and_the_reserve_counts_nothing_twice(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.ledger.add([row()])
    disk.close()
    disk.ledger.add([row(4)])
    before = reserve_of(disk.path).read_bytes()
    disk.open()
    disk.ledger.add([row()])
    reserve_of(disk.path).write_bytes(
        before
    )  # as if the gateway had ended just before it emptied the reserve
    assert total(disk.ledger) == 6
    disk.ledger.add([row()])
    assert total(disk.ledger) == 7
    reserve_of(disk.path).unlink()  # a new reserve must not take the store's old mark for its own
    disk.ledger.add([row()])
    disk.close()
    disk.ledger.add([row()])
    disk.open()
    assert total(disk.ledger) == 9


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 2 * SLOT - 1), junk=st.binary(min_size=1, max_size=200))
def test_a_damaged_reserve_is_no_error_and_the_older_content_stands(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes
) -> None:
    disk = Disk(tmp_path_factory.mktemp("usage"))
    disk.ledger.add([row()])
    disk.close()
    disk.ledger.add([row(1)])
    disk.ledger.add([row(1)])
    with reserve_of(disk.path).open("r+b") as file:
        file.seek(at)
        file.write(junk)
    assert disk.ledger.add([]).reserved in (0, 1, 2)


def test_a_reserve_in_the_hands_of_another_is_waited_for_and_then_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.usage.reserve._BUSY_S", 0.05)
    disk = Disk(tmp_path)
    disk.ledger.add([row()])
    with opened(reserve_of(disk.path)), pytest.raises(UsageError, match="cannot be used"):
        disk.ledger.add([row()])
    disk.ledger.add([row()])
    assert total(disk.ledger) == 2


@pytest.mark.parametrize("in_its_place", ["folder", "link"])
def test_another_thing_in_its_place_is_a_sentence(tmp_path: Path, in_its_place: str) -> None:
    disk = Disk(tmp_path)
    if in_its_place == "folder":
        reserve_of(disk.path).mkdir()
    else:
        reserve_of(disk.path).symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"usage\.reserve cannot be used"):
        disk.ledger.add([row()])
