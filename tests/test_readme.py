"""What the README tells a reader to type is what exists and what is checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sage_inference.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
PROGRAMS = ("sage", "sage-inference", ".venv/bin/sage", ".venv/bin/sage-inference")


def shell_lines() -> list[str]:
    """The commands of README's shell blocks: a prompt is dropped, and so is what a command prints."""
    lines: list[str] = []
    for language, block in FENCE.findall(README):
        joined = block.replace("\\\n", " ").splitlines()
        if language == "console":
            lines += [line.removeprefix("$ ") for line in joined if line.startswith("$ ")]
        elif language in ("sh", "bash", "shell"):
            lines += [line for line in joined if line and not line.startswith("#")]
    return lines


def commands_of(line: str) -> Iterator[list[str]]:
    """The arguments of each call of ours in a line of shell."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word in (";", "&&", "||", "|", "&", ">"):
            if words and words[0] in PROGRAMS:
                yield words[1:]
            words = []
        elif not (words == [] and re.match(r"\w+=", word)):  # NAME=value before a command
            words.append(word)


OURS = [words for line in shell_lines() for words in commands_of(line)]


def test_readmes_test_command_is_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    [tests] = [line for line in shell_lines() if "pytest" in line and "pip install" in line]
    assert tests in ci


def test_ci_stops_at_the_first_failure() -> None:
    assert "set -euo pipefail" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_readme_shows_commands() -> None:
    assert any(words[:2] == ["inference", "start"] for words in OURS)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_readmes_command_and_its_options_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("sage", [], resilient_parsing=True)
    given = list(words)
    while hasattr(command, "get_command") and given and not given[0].startswith("-"):
        name = given.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"sage has no command {name!r}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = {word.partition("=")[0] for word in given if word.startswith("-")}
    assert options <= known | {"-h", "--help"}
