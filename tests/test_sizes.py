"""Modules and functions stay small enough to be read at once."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "sage_inference"
MODULE_AT_MOST = 420
FUNCTION_AT_MOST = 60
NINE_IN_TEN_AT_MOST = 18
BRANCHES_AT_MOST = 18
# A table of metrics, and the options of commands: long lists that need no overview.
LONG_FUNCTIONS = {
    ("cli/bench.py", "bench"),
    ("cli/replay.py", "replay"),
    ("cli/start.py", "start"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


def modules() -> Iterator[tuple[str, str]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file.relative_to(PACKAGE).as_posix(), file.read_text()


@functools.cache
def functions() -> list[tuple[str, Function]]:
    return [
        (name, node)
        for name, source in modules()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, Function)
    ]


def lines(function: Function) -> int:
    """The lines from ``def`` on, without the docstring."""
    assert function.end_lineno is not None
    count = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        count -= docstring.end_lineno - docstring.lineno + 1
    return count


def branches(node: ast.AST) -> int:
    """McCabe's complexity: 1, and 1 for each branch, also of the functions within."""
    count = 1
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.Lambda):
            continue
        count += branches(child) - (not isinstance(child, Function))
        count += isinstance(child, _BRANCHES)
        count += isinstance(child, ast.Try) and bool(child.orelse)
        count += isinstance(child, ast.match_case) and not _takes_the_rest(child)
    return count


def _takes_the_rest(case: ast.match_case) -> bool:
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None


def test_no_module_is_too_long() -> None:
    sizes = {name: len(source.splitlines()) for name, source in modules()}
    assert {n: size for n, size in sizes.items() if size > MODULE_AT_MOST} == {}


def test_no_function_is_too_long() -> None:
    long = {(name, function.name) for name, function in functions() if lines(function) > FUNCTION_AT_MOST}
    assert long - LONG_FUNCTIONS == set()
    assert LONG_FUNCTIONS - long == set(), "no longer an exception"


def test_nine_functions_in_ten_are_short() -> None:
    sizes = sorted(lines(function) for _, function in functions())
    assert sizes[len(sizes) * 9 // 10] <= NINE_IN_TEN_AT_MOST


def test_no_function_branches_too_often() -> None:
    found = {(name, function.name): branches(function) for name, function in functions()}
    assert {name: count for name, count in found.items() if count > BRANCHES_AT_MOST} == {}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("pass", 1),
        ("if a: pass\nelif b: pass\nelse: pass", 3),
        ("for a in b: pass\nelse: pass", 2),
        ("while a:\n  if b: break", 3),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 4),
        ("match a:\n  case 1: pass\n  case _: pass", 2),
        ("match a:\n  case 1: pass\n  case b if c: pass", 3),
        ("return a and b or c if d else e", 1),
        ("def inner():\n  if a: pass", 3),
        ("with a:\n  if b: pass", 2),
    ],
)
def test_branches_are_counted_as_the_linter_counts_them(body: str, count: int) -> None:
    source = "def function():\n" + "\n".join(f"  {line}" for line in body.splitlines())
    assert branches(ast.parse(source).body[0]) == count


def test_the_docstring_does_not_count_as_lines() -> None:
    function = ast.parse('def function():\n    """One.\n\n    Two.\n    """\n    return 1').body[0]
    assert isinstance(function, Function)
    assert lines(function) == 2
