"""The table of clients and the tests name the same things."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.clients.table import ROOT, Row, rows

HERE = Path(__file__).parent
SCRIPTS = ROOT / "tests" / "clients_node"
PYTHON = [row for row in rows().values() if not row.is_node]
NODE = [row for row in rows().values() if row.is_node]


def pins() -> dict[str, str]:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["clients"]
    return dict(re.sub(r"\[.*\]", "", one).split("==") for one in group if "==" in one)


def names_of(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {name.removeprefix("test_") for name in names if name.startswith("test_")}


def steps_of(script: Path) -> set[str]:
    return set(re.findall(r"^export async function (\w+)", script.read_text(), re.M))


def test_every_client_has_a_module_and_every_module_a_client() -> None:
    modules = {path.stem for path in HERE.glob("test_*.py")} - {"test_table", "test_rerank_clients"}
    assert {row.module for row in rows().values()} == modules
    scripts = {path.name for path in SCRIPTS.glob("*.mjs")} - {"run.mjs"}
    assert {row.script for row in NODE} == scripts


@pytest.mark.parametrize("module", sorted({row.module for row in PYTHON}))
def test_what_was_tried_is_what_the_tests_are_called(module: str) -> None:
    tried = [word for row in PYTHON if row.module == module for word in row.tests]
    assert sorted(tried) == sorted(names_of(module))


@pytest.mark.parametrize("row", NODE, ids=lambda row: row.client)
def test_what_was_tried_is_what_the_steps_are_called(row: Row) -> None:
    assert row.tests == steps_of(SCRIPTS / row.script)


def test_versions_are_those_that_are_installed_for_the_tests() -> None:
    named = {name: version for row in PYTHON for name, version in row.versions}
    for name, version in pins().items():
        assert (name, version) in {pair for row in PYTHON for pair in row.versions}, name
    assert named.keys() - {"curl"} <= pins().keys()
    node = {pair for row in NODE for pair in row.versions}
    manifest = json.loads((SCRIPTS / "package.json").read_text())
    assert node == set(manifest["dependencies"].items())


def test_every_client_is_installed(request: pytest.FixtureRequest) -> None:
    """Where all clients are meant to be tested, none may be left out in silence."""
    if not request.config.getoption("--all-clients"):
        pytest.skip("asked for by --all-clients")
    assert {name: importlib.metadata.version(name) for name in pins()} == pins()
