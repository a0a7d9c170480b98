"""The log goes on, whatever others do to its file, its directory and its disk."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_inference.config.settings import LoggingSettings
from sage_inference.daemon import logfile
from sage_inference.log_files.writer import LogWriter
from tests.daemon.test_logfile import own_root  # noqa: F401 - a fixture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "inference.log"


@pytest.fixture
def writer(path: Path) -> Iterator[LogWriter]:
    writer = LogWriter(path, 4096, 3)
    yield writer
    writer.close()


def remove_directory(path: Path) -> None:
    for part in path.parent.iterdir():
        part.unlink()
    path.parent.rmdir()


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent.parent / "elsewhere" / "target.log")


TAKEN: dict[str, Callable[[Path], object]] = {
    "renamed": lambda path: path.rename(path.with_name("moved.log")),
    "renamed as logrotate does": lambda path: path.rename(f"{path}.1"),
    "removed": lambda path: path.unlink(),
    "directory removed": remove_directory,
    "directory renamed": lambda path: path.parent.rename(path.parent.parent / "old"),
    "replaced": lambda path: [path.rename(f"{path}-1"), path.write_bytes(b"")],
    "dangling link": replace_by_link,
    "truncated": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_log_that_was_taken_away_is_there_with_the_next_line(
    writer: LogWriter, path: Path, take: Callable[[Path], object]
) -> None:
    writer.append(b"one\n")
    take(path)
    writer.append(b"two\n")
    writer.append(b"three\n")
    assert path.read_bytes() == b"two\nthree\n"
    assert path.stat().st_mode & 0o777 in (0o600, 0o644)  # 0o644: the one that somebody else made
    assert path.parent.stat().st_mode & 0o077 == 0 or path.parent.parent == path.parent


def test_directory_that_may_not_be_entered_any_more_does_not_matter_to_the_open_log(
    writer: LogWriter, path: Path
) -> None:
    writer.append(b"one\n")
    path.parent.chmod(0)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        writer.append(b"two\n")
    finally:
        os.seteuid(uid)
        path.parent.chmod(0o700)
    assert path.read_bytes() == b"one\ntwo\n"


def test_size_counts_from_the_new_file_after_a_rename(writer: LogWriter, path: Path) -> None:
    writer.append(b"a" * 4000 + b"\n")
    path.rename(path.with_name("moved"))
    writer.append(b"b" * 4000 + b"\n")
    assert {part.name for part in path.parent.iterdir()} == {"moved", "inference.log"}
    writer.append(b"c" * 4000 + b"\n")
    assert path.read_bytes()[:1] == b"c"
    assert path.with_name("inference.log.1").read_bytes()[:1] == b"b"


def test_parts_beyond_a_lowered_number_go_and_foreign_files_stay(writer: LogWriter, path: Path) -> None:
    path.parent.mkdir()
    for name in ("1", "2", "3", "7", "20261129", "old", "2.gz"):
        Path(f"{path}.{name}").write_text(name)
    writer.backups = 1
    path.write_bytes(b"a" * 4096)
    writer.append(b"b\n")
    names = {part.name.removeprefix("inference.log") for part in path.parent.iterdir()}
    assert names == {"", ".1", ".20261129", ".old", ".2.gz"}


def test_parts_of_a_linked_log_lie_beside_its_target_and_the_link_stays(
    writer: LogWriter, path: Path, tmp_path: Path
) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "big.log")
    for _ in range(3):
        writer.append(b"x" * 4000 + b"\n")
    assert path.is_symlink()
    assert {part.name for part in tmp_path.iterdir()} == {"logs", "big.log", "big.log.1", "big.log.2"}


@pytest.mark.usefixtures("own_root")
def test_log_that_cannot_be_rotated_grows_and_reports_it_once(path: Path) -> None:
    Path(f"{path}.1", "occupied").mkdir(parents=True)
    logfile.configure(path, LoggingSettings(max_bytes=4096, backups=1))
    for number in range(100):
        logging.getLogger("x").info("%d %s", number, "x" * 100)
    lines = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert [line.split()[0] for line in lines if line[0].isdigit()] == [str(n) for n in range(100)]
    [told] = [line for line in lines if not line[0].isdigit()]
    assert str(path) in told
    assert "cannot be rotated" in told


def directory_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo_in_its_place(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def full_device_in_its_place(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/full")


def file_for_a_directory(path: Path) -> None:
    remove_directory(path)
    path.parent.touch()


LOST: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "full disk": (full_device_in_its_place, lambda path: path.unlink(), "No space left on device"),
    "a directory": (directory_in_its_place, lambda path: path.rmdir(), "Is a directory"),
    "a FIFO nobody reads": (fifo_in_its_place, lambda path: path.unlink(), "No such device or address"),
    "no directory": (file_for_a_directory, lambda path: path.parent.unlink(), "Not a directory"),
}


@pytest.mark.usefixtures("own_root")
@pytest.mark.parametrize(("lose", "mend", "reason"), LOST.values(), ids=LOST)
def test_lost_lines_are_counted_and_reported_once_when_it_takes_lines_again(
    path: Path,
    lose: Callable[[Path], object],
    mend: Callable[[Path], object],
    reason: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    logfile.configure(path, LoggingSettings())
    log = logging.getLogger("x")
    log.info("before")
    lose(path)
    for _ in range(3):
        log.info("lost")
    logfile.configure(path, LoggingSettings(level="debug"))  # a reload forgets nothing
    log.debug("lost, too")
    assert capfd.readouterr().err == f"log lines are lost: {path}: {reason}\n"
    mend(path)
    log.info("after")
    log.info("later")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["message"] for entry in found] == [
        f"4 log lines were lost while they could not be written: {path}: {reason}",
        "after",
        "later",
    ]
    assert found[0]["level"] == "warning"


def test_disk_that_fills_up_within_a_line_leaves_whole_lines(path: Path) -> None:
    """A limit on file sizes cuts a write as a full disk does: what fits is written, then there is an error."""
    code = f"""
import logging, resource, sys
from pathlib import Path
from sage_inference.config.settings import LoggingSettings
from sage_inference.daemon import logfile
logfile.configure(Path({str(path)!r}), LoggingSettings())
def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(1000)
for n in range(20): logging.getLogger("x").info("%d %s", n, "x" * 50)
limit(resource.RLIM_INFINITY)
logging.getLogger("x").info("after")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    messages = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    lost = 20 - (len(messages) - 2)
    assert messages[-2:] == [
        f"{lost} log lines were lost while they could not be written: {path}: File too large",
        "after",
    ]
    assert ended.stderr == f"log lines are lost: {path}: File too large\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_full_file_system_takes_lines_again_when_there_is_space(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        writer = LogWriter(disk / "log", 1 << 20, 1)
        sent = 0

        def fill() -> None:
            nonlocal sent
            while True:
                writer.append(b"%05d %b\n" % (sent, b"x" * 1000))
                sent += 1

        with pytest.raises(OSError, match="No space left on device") as raised:
            fill()
        assert raised.value.filename == str(disk / "log")
        assert (disk / "log").read_bytes().count(b"\n") == sent
        assert (disk / "log").read_bytes().endswith(b"x\n")
        (disk / "log").unlink()
        writer.append(b"after\n")
        assert (disk / "log").read_bytes() == b"after\n"
        writer.close()
    finally:
        subprocess.run(["umount", disk], check=True)
