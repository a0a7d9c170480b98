"""The log's lines, through rotations."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from sage_inference.cli.loglines import record
from sage_inference.log_files.reader import Log


def every(_: bytes) -> bool:
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inference.log"


def test_last_lines_come_from_rotated_parts_too_in_order(path: Path) -> None:
    for name, lines in (("log.10", "a\n"), ("log.2", "b\nc\n"), ("log.1", "d\n"), ("log", "e\n")):
        path.with_suffix(f".{name}").write_text(lines)
    (path.parent / "inference.log.old").write_text("no part\n")
    with Log(path) as log:
        assert b"".join(log.last(99, every)) == b"a\nb\nc\nd\ne\n"
    with Log(path) as log:
        assert log.last(3, every) == [b"c\n", b"d\n", b"e\n"]
    with Log(path) as log:
        assert log.last(1, lambda line: line < b"c") == [b"b\n"]
    with Log(path) as log:
        assert log.last(0, every) == []


def test_follow_goes_on_behind_the_last_line_and_joins_halves(path: Path) -> None:
    path.write_text("one\ntw")
    with Log(path) as log, path.open("a") as writer:
        assert log.last(9, every) == [b"one\n"]
        writer.write("o\nthree\n")
        writer.flush()
        assert list(islice(log.follow(every), 2)) == [b"two\n", b"three\n"]


def test_follow_reads_a_rotated_file_to_its_end_before_the_new_one(path: Path) -> None:
    path.write_text("one\n")
    with Log(path) as log:
        log.last(9, every)
        with path.open("a") as writer:
            writer.write("two\n")
        path.rename(f"{path}.1")
        path.write_text("three\n")
        assert list(islice(log.follow(every), 2)) == [b"two\n", b"three\n"]


def test_follow_waits_for_a_log_that_is_not_there_yet(path: Path) -> None:
    with Log(path) as log:
        assert log.last(9, every) == []
        path.write_text("one\n")
        assert list(islice(log.follow(every), 1)) == [b"one\n"]


def test_a_file_that_rotates_while_it_is_read_is_not_shown_twice(path: Path) -> None:
    path.write_text("one\n")
    with Log(path) as log:
        path.rename(f"{path}.1")
        path.write_text("two\n")
        assert log.last(9, every) == [b"one\n", b"two\n"]
        Path(f"{path}.1").rename(f"{path}.2")
        path.rename(f"{path}.1")
        path.write_text("three\n")
        assert list(islice(log.follow(every), 1)) == [b"three\n"]


@pytest.mark.parametrize("line", [b"junk\n", b"[1]\n", b"\xff\n", b"[" * 5000, b'"text"\r\n', b"\n"])
def test_a_line_that_is_no_record_is_a_message(line: bytes) -> None:
    found = record(line)
    assert found["level"] is None
    assert found["message"] == line.decode("utf-8", "replace").rstrip("\r\n")
