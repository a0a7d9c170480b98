"""The conversation at a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_inference.cli.chat.history import History, _escaped, _unescaped
from sage_inference.cli.chat.slash import is_command
from sage_inference.config.paths import Paths
from tests.cli.test_chat import answering, begun, refusal
from tests.support.at_terminal import CTRL_C, CTRL_D, AtTerminal
from tests.support.rogue import RogueEngine, ok

PROMPT = ">>> "


def messages(engine: RogueEngine) -> list[tuple[str, str]]:
    body = json.loads(engine.requests[-1].partition(b"\r\n\r\n")[2])
    return [(each["role"], each["content"]) for each in body["messages"]]


def test_a_conversation_remembers_and_obeys(tmp_path: Path) -> None:
    with (
        RogueEngine(
            answering("one"), answering("two"), refusal("400 Bad", "no"), answering("three")
        ) as engine,
        AtTerminal(tmp_path, "chat", "--base-url", engine.url, "--system", "S") as t,
    ):

        def typed(*lines: str, last: str = PROMPT) -> str:
            for line in lines[:-1]:
                t.type(f"{line}\r")
                t.wait_for("... ")
            t.type(f"{lines[-1]}\r")
            return t.wait_for(last)

        t.wait_for(PROMPT)
        assert "one\r\n" in typed("first")
        assert messages(engine) == [("system", "S"), ("user", "first")]
        assert "two\r\n" in typed('"""of', "several\\", 'lines"""')
        assert messages(engine)[1:] == [
            ("user", "first"),
            ("assistant", "one"),
            ("user", "of\nseveral\\\nlines"),
        ]
        assert "answers with 400: no" in typed("refused")
        assert "temperature 0.5" in typed("/set temperature 0.5")
        assert "did you mean temperature?" in typed("/set temprature 0.5")
        assert "/model [NAME]" in typed("/help")
        assert "no command /hlp" in typed("/hlp")
        assert "* m" in typed("/model")
        assert 'no model "nope"' in typed("/model nope")
        assert "answers: 2, tokens: 6, remembered messages: 4" in typed("/stats")
        assert "is forgotten" in typed("/clear")
        assert "no system prompt" in typed('/system ""')
        assert "three\r\n" in typed("/usr/bin \\", "is what?")
        assert messages(engine) == [("user", "/usr/bin \nis what?")]
        assert b'"temperature":0.5' in engine.requests[-1]
        t.type("/bye\r")
        assert t.end() == 0
    kept = tmp_path / "state" / "chat_history"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text().splitlines()[:2] == ["first", r"of\nseveral\\\nlines"]


def test_ctrl_c_ends_an_answer_then_a_line_then_the_conversation(tmp_path: Path) -> None:
    with (
        RogueEngine(begun, answering("next")) as engine,
        AtTerminal(tmp_path, "chat", "--base-url", engine.url, "--no-history") as t,
    ):
        t.wait_for(PROMPT)
        t.type("first\r")
        t.wait_for("begun")
        t.type(CTRL_C)
        engine.left.get(timeout=20)
        t.wait_for(PROMPT)
        t.type("half a line")
        t.wait_for("half a line")
        t.type(CTRL_C)
        assert "again" not in t.wait_for(PROMPT)
        t.type("second\r")
        t.wait_for("next\r\n")
        assert messages(engine) == [("user", "first"), ("assistant", "begun"), ("user", "second")]
        t.wait_for(PROMPT)
        t.type(CTRL_C)
        assert "Ctrl-C again or Ctrl-D" in t.wait_for(PROMPT)
        t.type(CTRL_C)
        assert t.end() == 0
    assert not (tmp_path / "state" / "chat_history").exists()


def test_a_ctrl_c_at_the_very_moment_of_the_prompt_counts_once(tmp_path: Path) -> None:
    with (
        RogueEngine(ok(b"{}")) as engine,
        AtTerminal(tmp_path, "chat", "m", "--base-url", engine.url) as t,
    ):
        for _ in range(20):
            t.wait_for(PROMPT)
            t.type(CTRL_C)
            assert "Ctrl-C again or Ctrl-D" in t.wait_for(PROMPT)
            t.type("/system\r")
        t.wait_for(PROMPT)
        t.type(CTRL_D)
        assert t.end() == 0


@pytest.mark.parametrize("env", [{"TERM": "dumb", "NO_COLOR": "1"}], ids=str)
def test_any_terminal_will_do(tmp_path: Path, env: dict[str, str]) -> None:
    with (
        RogueEngine(ok(b"{}", status="500 No"), answering("\x1b[2Jfine")) as engine,
        AtTerminal(tmp_path, "chat", "m", "--base-url", engine.url, columns=20, env=env) as t,
    ):
        t.wait_for(PROMPT)
        t.type("\xff\x00 first\r")
        t.wait_for("answers with 500")
        t.wait_for(PROMPT)
        t.type("x\r")
        t.wait_for("\\x1b[2Jfine")
        t.wait_for(PROMPT)
        t.type(CTRL_D)
        assert t.end() == 0
        assert "Traceback" not in t.shown
        assert "\x1b[2m" not in t.shown


class Entries:
    """The part of the module readline that a history uses."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def add_history(self, text: str) -> None:
        self.kept.append(text)


@pytest.mark.parametrize("text", ["a\nb", "a\\nb", "\\", "\\\\n", "a\rb\\", "\udcff", "日本"])
def test_a_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    paths = Paths(tmp_path / "c", tmp_path / "state", tmp_path / "logs")
    History(Entries(), paths).add(text)
    entries = Entries()
    History(entries, paths)
    assert entries.kept == [text.encode("utf-8", "replace").decode()]
    assert _unescaped(_escaped(text)) == text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n\n\x00\n", b"x\n" * 5000, b"y" * 100_000], ids=len)
def test_any_history_is_read_and_a_long_one_is_cut(tmp_path: Path, content: bytes) -> None:
    paths = Paths(tmp_path / "c", tmp_path / "state", tmp_path / "logs")
    paths.state_dir.mkdir()
    file = paths.state_dir / "chat_history"
    file.write_bytes(content)
    entries = Entries()
    History(entries, paths).add("new")
    assert len(entries.kept) <= 1001
    assert file.read_bytes().endswith(b"new\n")
    assert file.read_bytes().count(b"\n") <= 1001
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("thing", ["folder", "link", "pipe", "no folder"])
def test_a_history_that_cannot_be_kept_is_none(tmp_path: Path, thing: str) -> None:
    import os

    paths = Paths(tmp_path / "c", tmp_path / "state", tmp_path / "logs")
    file = paths.state_dir / "chat_history"
    target = tmp_path / "target"
    if thing == "no folder":
        paths.state_dir.write_text("")
    else:
        paths.state_dir.mkdir()
        make: dict[str, Any] = {
            "folder": Path.mkdir,
            "link": lambda f: f.symlink_to(target),
            "pipe": os.mkfifo,
        }
        make[thing](file)
    entries = Entries()
    History(entries, paths).add("text")
    assert entries.kept == ["text"]
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("/help", True), ("/?", True), ("/HELP x", True), ("/usr/bin", False), (" /help", False), ("/", False),
     ("/a\nb", False), ("//", False), ("/help\tx", True), ("/2", False)],
)  # fmt: skip
def test_a_slash_and_a_word_are_a_command(text: str, is_one: bool) -> None:
    assert is_command(text) is is_one
