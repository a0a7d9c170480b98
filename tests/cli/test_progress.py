"""Progress is shown of what is under way: not before the configuration is read, which may be all that is wrong."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_inference.cli import terminal
from sage_inference.config.paths import Paths
from sage_inference.daemon import control
from tests.support.command import sage
from tests.support.gateway import clean_environment, free_port
from tests.support.rogue import RogueEngine, Wire, ok
from tests.support.wire import Caller

PROGRESS = ("waiting", "starting", " …", "\x1b")  # an escape removes a line that changed
COMMANDS = [("start", "--background"), ("start",), ("restart",)]
BROKEN = {"no YAML": b"server: [", "bad value": b"server: {port: x}"}
SLOW_S = 2 * terminal.PROGRESS_AFTER_S


def slowly_read(home: Path, content: bytes, *args: str) -> str:
    """What a command shows whose configuration comes through a pipe, late."""
    pipe = home / "config.yaml"
    os.mkfifo(pipe)
    ours, theirs = pty.openpty()  # progress is shown to a terminal at least
    with subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", *args],
        env=clean_environment(home, TERM="xterm"),
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        with pipe.open("wb") as writing:  # it is being read from here on
            time.sleep(SLOW_S)
            writing.write(content)
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how a terminal ends
            pass
        assert process.wait(20) == 1
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize(
    ("args", "broken"),
    [*((command, "no YAML") for command in COMMANDS), (COMMANDS[0], "bad value")],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_configuration_that_cannot_be_read_is_all_that_is_shown(
    tmp_path: Path, args: tuple[str, ...], broken: str
) -> None:
    shown = re.sub("\x1b\\[[0-9;]*m", "", slowly_read(tmp_path, BROKEN[broken], *args))
    assert shown.startswith("error: ")
    assert not any(word in shown for word in PROGRESS)


@pytest.mark.parametrize(
    "args",
    [("--config", "nowhere.yaml"), ("--host", "0.0.0.0"), ("--api-key", "env:NO_SUCH_VARIABLE")],
    ids=" ".join,
)
def test_wrong_options_are_all_that_is_shown(tmp_path: Path, args: tuple[str, ...]) -> None:
    found = sage(tmp_path, "start", "--background", *args)
    assert found.returncode in (1, 2)
    assert found.stderr.startswith("error: ")
    assert not any(word in found.stderr for word in PROGRESS)


def test_a_wait_that_never_began_shows_nothing_and_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.WaitIndicator("for nothing", after_s=0, later=True):
        pass
    assert capsys.readouterr().err == ""


def test_a_wait_that_begins_later_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.WaitIndicator("for something", after_s=0, later=True) as waiting:
        waiting.begin(0.1)
        waiting.begin(0.2)
    assert re.fullmatch(r"for something …\nfor something: \d\.\d s\n|", capsys.readouterr().err)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.stop(Paths.resolve(environ={"SAGE_INFERENCE_HOME": str(tmp_path)}), force=True)


def waited_for(stderr: str) -> list[str]:
    """The steps that the progress line named, each once and in order. A wait of less than 300 ms is not named."""
    found = re.findall(r"^waiting for ([a-z ]+?)(?: …|:)", stderr, re.MULTILINE)
    return list(dict.fromkeys(found))


def shown_while_busy(home: Path, caller: Caller, engine: RogueEngine, until: str, command: str) -> str:
    """Run the command beside a request that ends as soon as ``until`` was shown. Returns the text that it showed."""
    engine.go.clear()
    caller.chat()
    engine.arrived.get(timeout=10)
    with subprocess.Popen(
        [sys.executable, "-m", "sage_inference", "inference", command],
        env=clean_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = ""
        while until not in shown:
            line = process.stderr.readline()
            assert line, shown
            shown += line
        engine.go.set()
        shown += process.stderr.read()
        answer = process.stdout.read()
    assert process.returncode == 0, shown
    assert caller.reply().status == 200
    assert ("the old gateway finished the request that was running\n" in answer) == (command == "restart")
    return shown


def test_commands_name_what_they_wait_for_and_no_requests_where_none_run(home: Path) -> None:
    def answer(wire: Wire) -> None:
        wire.engine.go.wait(30)
        ok()(wire)

    port = free_port()
    with RogueEngine(answer) as engine:
        (home / "config.yaml").write_text(f"server: {{port: {port}}}\ninstances: [{engine.url}]\n")
        started, idle = sage(home, "restart"), sage(home, "restart")
        assert waited_for(started.stderr) in ([], ["the new gateway"])
        assert waited_for(idle.stderr) in (
            [],
            ["the new gateway"],
            ["the new gateway", "the old gateway to end"],
        )
        with Caller(port) as caller:
            shown = shown_while_busy(home, caller, engine, "to finish its requests", "restart")
        assert waited_for(shown) == ["the new gateway", "the old gateway to finish its requests"]
        with Caller(port) as caller:
            shown = shown_while_busy(home, caller, engine, "to finish its requests", "stop")
        assert waited_for(shown) == ["the gateway to finish its requests"]
    assert sage(home, "stop").stderr == ""
