"""The log: one line an event, nobody's to forge, nobody else's to read."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_inference.config.settings import LoggingSettings
from sage_inference.daemon import logfile

NASTY = 'a\nb\r\x1b[31m\x00\x7f\u2028\u202e\x85"\\é'


@pytest.fixture(autouse=True)
def own_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if handler not in handlers:
            with contextlib.suppress(OSError):  # a full disk
                handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising
    logging.captureWarnings(False)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_an_object_with_its_extras(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logfile.configure(path, LoggingSettings())
    logging.getLogger("sage_inference.x").warning("instance %s", "a", extra={"queue_ms": 5})
    (entry,) = entries(path)
    assert (entry["level"], entry["logger"], entry["message"]) == (
        "warning",
        "sage_inference.x",
        "instance a",
    )
    assert entry["queue_ms"] == 5
    assert entry["time"].endswith("Z")
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_value_can_forge_a_line_or_steer_a_terminal(tmp_path: Path) -> None:
    path, screen = tmp_path / "log", io.StringIO()
    logfile.configure(path, LoggingSettings(), stream=screen)
    logging.getLogger("x").error("got %s", NASTY, extra={"model": NASTY})
    raw = path.read_bytes()
    assert all(32 <= byte < 127 for byte in raw.removesuffix(b"\n"))
    assert entries(path)[0]["message"] == f"got {NASTY}"
    shown = screen.getvalue()
    assert shown.endswith("\n")
    assert shown[:-1].isprintable()


def test_an_exception_is_one_line_in_the_file_and_readable_on_screen(tmp_path: Path) -> None:
    path, screen = tmp_path / "log", io.StringIO()
    logfile.configure(path, LoggingSettings(), stream=screen)
    try:
        raise ValueError("odd\x1b[2J")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (entry,) = entries(path)
    assert "ValueError: odd" in entry["exception"]
    assert "\x1b" not in screen.getvalue()
    assert "  Traceback" in screen.getvalue()


def test_it_rotates_by_size_and_keeps_so_many(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logfile.configure(path, LoggingSettings(max_bytes=4096, backups=2))
    for number in range(300):
        logging.getLogger("x").info("line %d %s", number, "x" * 100)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log", "log.1", "log.2"]
    assert all(file.stat().st_size <= 4096 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert entries(path)[-1]["message"].startswith("line 299 ")


def test_zero_backups_still_bound_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logfile.configure(path, LoggingSettings(max_bytes=4096, backups=0))
    for _ in range(100):
        logging.getLogger("x").info("x" * 200)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size <= 4096


def test_configuring_again_takes_the_place_of_before_and_keeps_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"old": 1}\n')
    logfile.configure(path, LoggingSettings())
    logfile.configure(path, LoggingSettings(level="error"))
    logging.getLogger("x").warning("not this")
    logging.getLogger("x").error("this")
    assert [entry.get("message") for entry in entries(path)] == [None, "this"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_stops_nobody_and_floods_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    logfile.configure(tmp_path / "log", LoggingSettings())
    for _ in range(100):
        logging.getLogger("x").error("lost")
    assert capfd.readouterr().err == f"log lines are lost: {tmp_path / 'log'}: No space left on device\n"


@pytest.mark.parametrize("level", ["debug", "info", "error"])
def test_libraries_that_log_every_request_are_heard_from_warnings_on(tmp_path: Path, level: str) -> None:
    path = tmp_path / "log"
    logfile.configure(path, LoggingSettings(level=level))
    for name in ("httpx", "httpcore.connection", "uvicorn.error", "asyncio"):
        logging.getLogger(name).info("HTTP Request: GET /health", extra={"color_message": "\x1b[1mGET"})
        logging.getLogger(name).debug("connect_tcp.started")
        logging.getLogger(name).error("failed", extra={"color_message": "\x1b[1mfailed", "port": 1})
    assert [entry["message"] for entry in entries(path)] == ["failed"] * 4
    assert all(entry["port"] == 1 and "color_message" not in entry for entry in entries(path))


@pytest.mark.parametrize("thread", [False, True])
def test_what_nobody_caught_is_in_the_log(tmp_path: Path, thread: bool) -> None:
    path = tmp_path / "log"
    fail = "threading.Thread(target=fail).start()" if thread else "fail()"
    code = f"""
import threading
from pathlib import Path
from sage_inference.config.settings import LoggingSettings
from sage_inference.daemon import logfile
logfile.configure(Path({str(path)!r}), LoggingSettings())
logfile.log_uncaught()
def fail(): raise RuntimeError("boom")
{fail}
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (entry,) = entries(path)
    assert (entry["level"], "RuntimeError" in entry["message"]) == ("critical", True)
    assert entry["exception"].endswith("RuntimeError: boom")
    assert ended.stderr == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "colour"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
    ],
    ids=["terminal", "dumb", "NO_COLOR", "no terminal", "FORCE_COLOR"],
)
def test_colour_is_for_those_who_can_see_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stream: io.StringIO,
    environ: dict[str, str],
    colour: bool,
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    logfile.configure(tmp_path / "log", LoggingSettings(), stream=stream)
    logging.getLogger("x").error("red")
    assert ("\x1b[" in stream.getvalue()) is colour
    assert "error" in stream.getvalue()
