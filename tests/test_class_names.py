"""A class name stands once in the package, so that a name in an error, a review or a search leads to one place."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sage_inference"
# The simulator imitates other programs, and is a program of its own: it has its own requests, options and errors.
SIMULATOR = "simulator"
# Names that a class shares with its asynchronous twin. There are none: twins have ``Async`` in front.
TWINS: frozenset[str] = frozenset()


def homes(package: Path) -> dict[str, list[str]]:
    """The modules of each class name, those of the simulator left out. Nested classes count as well."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        if place.parts[0] != SIMULATOR:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(place))
    return found


def repeated(package: Path) -> dict[str, list[str]]:
    return {name: places for name, places in homes(package).items() if len(places) > 1}


def test_no_class_name_stands_twice() -> None:
    assert {name: places for name, places in repeated(PACKAGE).items() if name not in TWINS} == {}


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("class A: ...", "class A(Exception): ...", ["A"]),
        ("class A: ...", "def make():\n    class A: ...", ["A"]),
        ("class A:\n    class B: ...", "class B: ...", ["B"]),
        ("class A: ...", "class AA: ...", []),
        ("class A: ...", "from one import A", []),
    ],
)
def test_the_search_finds_what_stands_twice(
    tmp_path: Path, first: str, second: str, found: list[str]
) -> None:
    (tmp_path / "one.py").write_text(first)
    (tmp_path / "two.py").write_text(second)
    (tmp_path / SIMULATOR).mkdir()
    (tmp_path / SIMULATOR / "three.py").write_text("class AA: ...")
    assert list(repeated(tmp_path)) == found
