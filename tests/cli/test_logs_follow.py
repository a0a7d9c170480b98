"""``logs -f`` shows each line that is on disk once and in order, whatever happens to the files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_inference.log_files.reader import Log
from tests.support.following import following

LINE = "line {}: " + "x" * 50 + "\n"


class Stop(Exception):  # noqa: N818 - the end of a scene
    pass


class Scene:
    """A log, and a follower that looks whenever the scene lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0

    def write(self, count: int = 1, path: Path | None = None) -> None:
        with (path or self.path).open("a") as file:
            for _ in range(count):
                file.write(LINE.format(self.written))
                self.written += 1

    def part(self, number: int) -> Path:
        return Path(f"{self.path}.{number}")

    def rotate(self, keep: int = 9) -> None:
        for number in range(keep, 0, -1):
            source = self.part(number - 1) if number > 1 else self.path
            if source.exists():
                source.replace(self.part(number))

    def copy_and_truncate(self) -> None:
        """As logrotate's copytruncate does."""
        for number in range(9, 1, -1):
            if self.part(number - 1).exists():
                self.part(number - 1).replace(self.part(number))
        self.part(1).write_bytes(self.path.read_bytes())
        os.truncate(self.path, 0)

    def follow(self, *steps: Callable[[], object], first: int = 100) -> list[str]:
        """What is shown when a step is done at each pause."""
        left = list(steps)

        def pause(_: float) -> None:
            if not left:
                raise Stop
            left.pop(0)()

        shown: list[str] = []
        with Log(self.path) as log:
            shown += [line.decode() for line in log.last(first, lambda line: True)]
            try:
                for line in log.follow(lambda line: True, pause):
                    shown.append(line.decode())
            except Stop:
                return shown
        raise AssertionError("follow ended")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "inference.log")


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split(" ")[1].rstrip(":")) for line in lines]


def all_once(shown: list[str], count: int) -> None:
    assert numbers(shown) == list(range(count))


def test_several_rotations_between_two_looks(scene: Scene) -> None:
    scene.write(2)

    def thrice() -> None:
        for _ in range(3):
            scene.write(2)
            scene.rotate()
            scene.write(1)

    all_once(scene.follow(thrice, lambda: None, thrice, scene.write, lambda: None), scene.written)


def test_parts_that_are_rotated_out_meanwhile_cost_only_what_is_gone(scene: Scene) -> None:
    scene.write(1)

    def many() -> None:
        for _ in range(6):
            scene.rotate(keep=2)
            scene.write(1)

    shown = scene.follow(many, scene.write, lambda: None)
    assert numbers(shown) == [0, 4, 5, 6, 7]


def test_new_file_that_has_the_inode_of_an_old_one_is_shown(scene: Scene, tmp_path: Path) -> None:
    """Where an inode is used again at once, as many file systems do."""
    scene.write(1)
    scene.rotate()
    scene.write(1)
    inode = scene.part(1).stat().st_ino

    def replaced() -> None:
        scene.part(1).unlink()
        scene.rotate()
        spares = []
        for number in range(50):  # until the number of the removed part comes again
            spare = tmp_path / f"spare{number}"
            spare.touch()
            spares.append(spare)
            if spare.stat().st_ino == inode:
                spare.rename(scene.path)
                break
        scene.write(1)

    all_once(scene.follow(replaced, scene.write, lambda: None), scene.written)


def test_truncated_log_is_read_from_its_begin(scene: Scene) -> None:
    scene.write(5)
    all_once(
        scene.follow(lambda: os.truncate(scene.path, 0), scene.write, lambda: scene.write(9), lambda: None),
        15,
    )


def test_log_that_was_truncated_and_grew_longer_between_two_looks(scene: Scene) -> None:
    scene.write(2)

    def anew() -> None:
        os.truncate(scene.path, 0)
        scene.write(20)

    all_once(scene.follow(anew, scene.write, lambda: None), scene.written)


def test_copies_made_before_truncations_hold_what_was_not_read(scene: Scene) -> None:
    scene.write(2)

    def step() -> None:
        scene.write(3)
        scene.copy_and_truncate()
        scene.write(2)

    def twice() -> None:
        step()
        step()

    all_once(scene.follow(step, lambda: None, twice, scene.write, step, lambda: None), scene.written)


def test_half_a_line_waits_for_its_other_half(scene: Scene) -> None:
    def half() -> None:
        with scene.path.open("a") as file:
            file.write("line 1")

    def other_half() -> None:
        with scene.path.open("a") as file:
            file.write(": the rest\n")

    scene.write(1)
    shown = scene.follow(half, lambda: None, other_half, lambda: None)
    assert shown[1:] == ["line 1: the rest\n"]


def test_half_a_line_before_a_copy_and_its_other_half_in_it(scene: Scene) -> None:
    def half() -> None:
        with scene.path.open("a") as file:
            file.write("line 1")

    def other_half() -> None:
        with scene.path.open("a") as file:
            file.write(": the rest\n")
        scene.copy_and_truncate()

    scene.write(1)
    assert scene.follow(half, other_half, lambda: None, lambda: None)[1:] == ["line 1: the rest\n"]


def test_half_a_line_at_the_end_of_a_rotated_log_does_not_swallow_the_next(scene: Scene) -> None:
    scene.write(1)

    def broken() -> None:
        with scene.path.open("a") as file:
            file.write("line 1: half")
        scene.rotate()
        scene.written = 2
        scene.write(1)

    assert numbers(scene.follow(broken, lambda: None)) == [0, 1, 2]


def test_removed_log_comes_back(scene: Scene) -> None:
    scene.write(1)
    scene.rotate()
    scene.write(1)
    steps = [scene.path.unlink, lambda: None, scene.write, scene.path.unlink, scene.write, lambda: None]
    all_once(scene.follow(*steps), scene.written)


def test_log_that_is_moved_away_is_read_to_its_end(scene: Scene, tmp_path: Path) -> None:
    scene.write(1)
    moved = tmp_path / "moved"

    def move() -> None:
        scene.write(1)
        scene.path.rename(moved)
        scene.write(1, moved)

    all_once(scene.follow(move, lambda: scene.write(1, moved), lambda: None, scene.write, lambda: None), 5)


def test_directory_that_is_removed_and_made_again(scene: Scene, tmp_path: Path) -> None:
    scene.path = tmp_path / "logs" / "inference.log"
    scene.path.parent.mkdir()
    scene.write(1)

    def removed() -> None:
        scene.path.unlink()
        scene.path.parent.rmdir()

    def made() -> None:
        scene.path.parent.mkdir()
        scene.write(1)

    all_once(scene.follow(removed, lambda: None, made, lambda: None), 2)


def test_linked_log_is_followed_through_rotations_of_its_target(scene: Scene, tmp_path: Path) -> None:
    link = scene.path
    scene.path = tmp_path / "target.log"
    link.symlink_to(scene.path)
    follower = Scene(link)
    scene.write(2)

    def rotate() -> None:
        scene.rotate()
        scene.write(2)

    def another_target() -> None:
        scene.write(1)
        scene.path = tmp_path / "other.log"
        scene.write(1)
        link.unlink()
        link.symlink_to(scene.path)

    all_once(follower.follow(rotate, lambda: None, rotate, another_target, lambda: None), scene.written)


def test_last_lines_come_from_all_parts(scene: Scene) -> None:
    for _ in range(4):
        scene.write(3)
        scene.rotate()
    scene.write(1)
    assert numbers(scene.follow(first=5)) == list(range(8, 13))
    assert numbers(scene.follow(scene.write, lambda: None, first=0)) == [13]


# The real command


WRITER = """
import logging, sys
from pathlib import Path
from sage_inference.config.settings import LoggingSettings
from sage_inference.daemon import logfile
path, count = Path(sys.argv[1]), int(sys.argv[2])
logfile.configure(path, LoggingSettings(max_bytes=10240, backups=100))
log = logging.getLogger("writer")
for number in range(count):
    log.info("number %d", number)
log.warning("done")
"""


def test_twenty_thousand_lines_through_two_hundred_rotations_lose_nothing_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "inference.log"
    with contextlib.ExitStack() as stack:
        follower = stack.enter_context(following(tmp_path, "logs", "--json", "-n", "0"))
        assert follower.stderr is not None
        assert follower.stdout is not None
        assert b"nothing is logged yet" in follower.stderr.readline()
        writer = stack.enter_context(subprocess.Popen([sys.executable, "-c", WRITER, str(path), "20000"]))
        seen = []
        for line in follower.stdout:
            message = json.loads(line)["message"]
            if message == "done":
                break
            seen.append(int(message.removeprefix("number ")))
        assert writer.wait(60) == 0
    # 101 files of 10 KB hold far more than is written between two looks.
    assert seen == list(range(20000))


@pytest.mark.parametrize("ended", ["interrupt", "reader leaves"])
def test_it_ends_quietly(tmp_path: Path, ended: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "inference.log").write_text('{"message":"one"}\n')
    with following(tmp_path, "logs") as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline() == b"one\n"
        if ended == "interrupt":
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 130
        else:
            follower.stdout.close()  # nothing more is written
            assert follower.wait(20) == 1
        assert follower.stderr.read() == b""


def test_level_and_json_and_lines_together(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "inference.log.1").write_text('{"level":"error","message":"a"}\n{"level":"info","message":"b"}\n')
    (logs / "inference.log").write_text('{"level":"error","message":"c"}\nnot json\n')
    with following(tmp_path, "logs", "--json", "--level", "warning", "-n", "2") as follower:
        assert follower.stdout is not None
        assert [json.loads(follower.stdout.readline())["message"] for _ in range(2)] == ["a", "c"]
        with (logs / "inference.log").open("a") as file:
            file.write('{"level":"info","message":"d"}\n{"level":"critical","message":"e"}\n')
        assert json.loads(follower.stdout.readline())["message"] == "e"


def test_a_log_that_is_no_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    from tests.support.command import sage

    path = tmp_path / "logs" / "inference.log"
    path.mkdir(parents=True)
    shown = sage(tmp_path, "logs")
    assert (shown.returncode, shown.stderr.startswith(f"error: {path}: ")) == (1, True)
