"""The rooms of the package: imports point down, and no modules import each other."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sage_inference"
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("wire/timers.py", "gateway.protocol"),
        ("client/work.py", "library.options"),
    ],
)
def test_an_import_that_points_up_breaks_the_contract(tmp_path: Path, low: str, high: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / PACKAGE.name / low
    planted.write_text(
        planted.read_text() + f"\nif TYPE_CHECKING:\n    import sage_inference.{high}  # noqa: E402\n"
    )
    outcome = subprocess.run(
        [LINT_IMPORTS, "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    room = low.partition("/")[0]
    assert (
        f"sage_inference.{room} is not allowed to import sage_inference.{high.partition('.')[0]}"
        in outcome.stdout
    )


def _name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(file): file for file in PACKAGE.rglob("*.py")}


def imported(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, also those for type checkers alone."""
    for node in ast.walk(ast.parse(file.read_text())):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = [f"{node.module}.{name.name}" for name in node.names]
        for name in named:
            yield name if name in MODULES else name.rpartition(".")[0]


def circles() -> list[set[str]]:
    """The sets of modules that reach each other by imports. The package's own face is left out: it names everything."""
    graph = {name: set(imported(file)) & MODULES.keys() for name, file in MODULES.items() if "." in name}
    reached = {name: set(graph[name]) for name in graph}
    while sum(_spread(reached, name) for name in graph):  # not any(), which would end each round at the first
        pass
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reached[name] if name in reached.get(other, ())}
        if circle and circle not in found:
            found.append(circle)
    return found


def _spread(reached: dict[str, set[str]], name: str) -> bool:
    before = len(reached[name])
    for other in tuple(reached[name]):
        reached[name] |= reached.get(other, set())
    return len(reached[name]) > before


def test_no_modules_import_each_other_not_even_for_type_checkers() -> None:
    assert circles() == []


def test_a_circle_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, imports in {"a": "c", "b": "a", "c": "b", "d": "a"}.items():
        (tmp_path / f"{name}.py").write_text(f"def late():\n    from p.{imports} import name\n")
    monkeypatch.setitem(globals(), "MODULES", {f"p.{name}": tmp_path / f"{name}.py" for name in "abcd"})
    assert circles() == [{"p.a", "p.b", "p.c"}]
