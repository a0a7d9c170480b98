"""Logs in files and pipes hold no terminal escapes, whatever asks for colours; a terminal gets them unless it must not."""

from __future__ import annotations

import json
import logging
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import httpx
import pytest

from sage_inference import interpreter
from sage_inference.daemon import logfile
from sage_inference.usage.reserve import reserve_of
from tests.support.gateway import running_gateway
from tests.support.rogue import RogueEngine, ok

ASKING = {
    "nothing": {},
    "FORCE_COLOR": {"FORCE_COLOR": "1"},
    "FORCE_COLOR 3": {"FORCE_COLOR": "3", "TERM": "xterm-256color"},
    "CLICOLOR_FORCE": {"CLICOLOR_FORCE": "1"},
    "PYTHON_COLORS": {"PYTHON_COLORS": "1", "COLORTERM": "truecolor"},
}


def test_no_escape_reaches_output_or_log_of_a_gateway_that_logs_all() -> None:
    everything: dict[str, str] = {}
    for variables in ASKING.values():
        everything |= variables
    with (
        RogueEngine(ok(), model="m\x1b[31m") as engine,
        running_gateway(
            engine.url, config={"logging": {"level": "debug", "access": True}}, env=everything
        ) as gateway,
    ):
        with gateway.client() as client:
            message = {"role": "user", "content": "a secret \x1b[31m"}
            body = {"model": "m\x1b[31m", "messages": [message]}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            assert client.post("/v1/chat/completions", json={**body, "model": "\x1b[2J"}).status_code == 404
            client.post("/admin/reload", headers=gateway.admin)
        engine.refuse()
        with gateway.client() as client, pytest.raises(httpx.HTTPStatusError):
            client.post("/v1/chat/completions", json=body).raise_for_status()
        gateway.stop()
        # Names are stored as callers gave them; ``usage`` shows them without their control characters.
        # Before it is used, its reserve is random bytes.
        stored = (gateway.paths.usage_file, reserve_of(gateway.paths.usage_file))
        files = [file for file in gateway.home.rglob("*") if file.is_file() and file not in stored]
        assert gateway.paths.log_file in files
        for file in files:
            # The store of usage is SQLite's, whose numbers may be any bytes.
            assert b"\x1b" not in file.read_bytes(), file
        records = [json.loads(line) for line in gateway.paths.log_file.read_text().splitlines()]
        accesses = [record for record in records if record["logger"] == "sage_inference.access"]
        found = [(record["status"], record["path"]) for record in accesses if "chat" in record["path"]]
        assert [status for status, _ in found[:2]] == [200, 404]
        assert "a secret" not in gateway.log()


@pytest.fixture
def pipe() -> Iterator[TextIO]:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield stream
    os.close(reading)


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream
    os.close(ours)


def set_only(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PYTHON_COLORS", "COLORTERM", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", ASKING.values(), ids=ASKING)
def test_files_and_pipes_get_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pipe: TextIO, variables: dict[str, str]
) -> None:
    set_only(monkeypatch, variables)
    assert not logfile.wants_colour(pipe)
    with (tmp_path / "log").open("w") as file:
        assert not logfile.wants_colour(file)


@pytest.mark.parametrize(
    ("variables", "colour", "shown"),
    [
        ({"TERM": "xterm"}, None, True),
        ({"TERM": "xterm"}, False, False),  # --no-color
        ({"TERM": "dumb"}, None, False),
        ({"TERM": "dumb", "FORCE_COLOR": "0"}, None, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, None, True),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": "1"}, None, False),
    ],
)
def test_a_terminal_gets_them_unless_the_user_wants_none(
    monkeypatch: pytest.MonkeyPatch,
    terminal: TextIO,
    variables: dict[str, str],
    colour: bool | None,
    shown: bool,
) -> None:
    set_only(monkeypatch, variables)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "red", (), None)
    assert ("\x1b" in logfile.Terminal(terminal, colour).format(record)) is shown


def test_a_message_of_uvicorn_is_logged_without_its_coloured_twin() -> None:
    record = logging.makeLogRecord({"msg": "on", "color_message": "\x1b[1mon\x1b[0m"})
    assert "color" not in logfile.JsonFormatter().format(record)


def test_a_process_whose_output_goes_to_a_file_is_not_asked_for_colours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variables in ASKING.values():
        set_only(monkeypatch, variables)
        environ = interpreter.environment()
        assert not {"FORCE_COLOR", "CLICOLOR_FORCE", "PYTHON_COLORS"} & set(environ)
        assert environ["PATH"] == os.environ["PATH"]
        assert sys.executable in interpreter.command("x")
