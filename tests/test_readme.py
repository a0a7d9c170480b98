"""The commands in README and in the documents exist, and the documents are complete."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sage_inference.cli.main import app
from sage_inference.config.cluster_file import parse_cluster
from sage_inference.config.load import parse
from sage_inference.config.settings import Settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
FOLDER = ROOT / "sage_inference" / "docs"
PAGES = (README, CONTRIBUTING, ROOT / "sage_inference" / "ARCHITECTURE.md", *sorted(FOLDER.glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
PROGRAMS = ("sage", "sage-inference", ".venv/bin/sage", ".venv/bin/sage-inference")


def shell_lines(page: Path) -> list[str]:
    """The commands of the page's shell blocks, without prompts and without the commands' output."""
    lines: list[str] = []
    for language, block in FENCE.findall(page.read_text()):
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


OURS = {" ".join(words): words for page in PAGES for line in shell_lines(page) for words in commands_of(line)}


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.name)
def test_the_test_command_is_what_ci_runs(page: Path) -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    [tests] = [line for line in shell_lines(page) if "pytest" in line and "pip install" in line]
    assert tests in ci


def test_contributing_has_each_check_of_ci() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in ci if line.startswith((".venv", "python3"))] == shell_lines(CONTRIBUTING)[:7]


def test_ci_stops_at_the_first_failure() -> None:
    assert "set -euo pipefail" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_readme_shows_commands() -> None:
    shown = [words for line in shell_lines(README) for words in commands_of(line)]
    assert any(words[:2] == ["inference", "start"] for words in shown)


@pytest.mark.parametrize("words", OURS.values(), ids=OURS)
def test_the_command_and_its_options_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("sage", [], resilient_parsing=True)
    given = list(words)
    while hasattr(command, "get_command") and given and not given[0].startswith("-"):
        name = given.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"sage has no command {name!r}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = {word.partition("=")[0] for word in given if word.startswith("-") and word != "-"}
    assert options <= known | {"-h", "--help"}


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 220


def test_readme_links_to_every_document() -> None:
    text = README.read_text()
    assert [page.name for page in PAGES[1:] if page.name not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The headings of a page as hosts of repositories name them in links."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_architecture_names_every_room_and_files_that_exist() -> None:
    package = ROOT / "sage_inference"
    text = (package / "ARCHITECTURE.md").read_text()
    rooms = {folder.name for folder in package.iterdir() if folder.is_dir() and folder.name != "__pycache__"}
    assert [room for room in rooms if f"`{room}`" not in text] == []
    named = set(re.findall(r"`([a-z_/]+/[a-z_]*(?:\.py)?)`", text))
    assert [name for name in named if not (package / name).exists() and not (ROOT / name).exists()] == []
    assert len(named) > 30


YAML = [block for page in PAGES for language, block in FENCE.findall(page.read_text()) if language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=range(len(YAML)))
def test_each_configuration_that_is_shown_is_valid(block: str) -> None:
    if block.startswith("models:"):  # the file of cluster up
        assert parse_cluster(block, "shown").models
    else:
        assert parse(block, "shown") != Settings()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_in_one_piece(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", FENCE.sub("", page.read_text()), re.M):
        first, second, *rows = table.splitlines()
        cells = [len(re.sub(r"\\\|", "", row).split("|")) for row in (first, second, *rows)]
        assert re.fullmatch(r"\|(?:---\|)+", second), first
        assert len(set(cells)) == 1, first
