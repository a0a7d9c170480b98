"""``status --watch``: redrawn in place on a terminal, one below the other in a pipe, and ended with 0."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sage_inference.cli.numbers import duration
from sage_inference.cli.schemas import ANSWERS
from tests.cli.shape import mistakes
from tests.support.at_terminal import CTRL_C, AtTerminal
from tests.support.command_here import sage_here
from tests.support.gateway import clean_environment

WATCH = ("status", "--watch", "0.1")


@pytest.mark.parametrize("key", ["q", CTRL_C], ids=ascii)
def test_a_terminal_is_redrawn_until_a_key(tmp_path: Path, key: str) -> None:
    with AtTerminal(tmp_path, *WATCH, columns=20) as t:
        t.wait_for("not running\x1b[K\r\n")
        t.wait_for("\x1b[3A\r")  # back over the time, the state and the line about keys
        t.wait_for("not running")
        t.type(key)
        assert t.end() == 0
        assert t.shown.count("q or Ctrl-C ends") >= 2
        assert "\x1b[2J" not in t.shown  # nothing is cleared before it is drawn


def test_a_dumb_terminal_gets_one_below_the_other(tmp_path: Path) -> None:
    with AtTerminal(tmp_path, *WATCH, TERM="dumb") as t:
        t.wait_for("not running\r\n")
        t.wait_for("not running\r\n")
        t.type(CTRL_C)
        assert t.end() == 0
        assert "\x1b" not in t.shown


@pytest.mark.parametrize("as_json", [False, True])
def test_a_pipe_gets_each_state_at_once(tmp_path: Path, as_json: bool) -> None:
    words = [sys.executable, "-m", "sage_inference", "inference", *WATCH, *(["--json"] if as_json else [])]
    with subprocess.Popen(
        words, env=clean_environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 0
    if as_json:
        assert [mistakes(json.loads(line), ANSWERS["status"]) for line in lines] == [[]] * 6
    else:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", lines[0])
        assert lines[1:3] == ["not running\n", "\n"]
        assert lines[4:] == ["not running\n", "\n"]


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "sage_inference", "inference", *WATCH]
    with subprocess.Popen(
        words, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("5",), "SECONDS follow --watch"),
        (("--watch", "fast"), "takes seconds from 0.1 to 86400"),
        (("--watch", "nan"), "takes seconds"),
        (("--watch=0",), "takes seconds"),
        (("-w", "1e9"), "takes seconds"),
        (("--watch", "\udcff"), "takes seconds"),
        (("--watch", "1", "2"), "unexpected extra argument"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    ended = sage_here(tmp_path, "status", *args)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 ms"), (0.0084, "8.4 ms"), (0.2104, "210 ms"), (0.9994, "999 ms"), (0.9999, "1 s"), (1.254, "1.25 s"),
     (12.3, "12 s"), (59.4, "59 s"), (59.9, "1 min 0 s"), (185, "3 min 5 s"), (100_000, "1,666 min 40 s")],
)  # fmt: skip
def test_durations_are_written_as_people_write_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
