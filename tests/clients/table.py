"""The table of clients in the documentation, as the tests read it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "sage_inference" / "docs" / "clients.md"
ADDRESS = "http://127.0.0.1:8000"
INSTALL = "pip install -e . --group clients, in an environment of its own"
_NODE = " (Node)"


@dataclass(frozen=True, slots=True)
class Row:
    """One client. ``tried`` has the words that name its tests, ``versions`` the packages and their releases."""

    client: str
    line: str
    tried: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]

    @property
    def is_node(self) -> bool:
        return self.client.endswith(_NODE)

    @property
    def script(self) -> str:
        """The name of a Node client's script."""
        return f"{_identifier(self.client.removesuffix(_NODE))}.mjs"

    @property
    def module(self) -> str:
        """The name of the test module. What follows a comma tells the rows of one client apart."""
        return "test_node" if self.is_node else f"test_{_identifier(self.client.partition(',')[0])}"

    @property
    def tests(self) -> set[str]:
        return {_identifier(word) for word in self.tried}


def rows() -> dict[str, Row]:
    """The rows of the first table, by client."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    start = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    end = next((n for n in range(start, len(lines)) if lines[n].startswith("|---")), len(lines) + 1) - 1
    return {row.client: row for row in map(_row, lines[start:end])}


def _row(line: str) -> Row:
    client, code, tried, versions = (cell.strip() for cell in line.strip("|").split("|"))
    assert code.startswith("`"), f"the line of {client} is not code"
    assert code.endswith("`"), f"the line of {client} is not code"
    found = tuple((name, version) for name, version in re.findall(r"(\S+) (\d[\w.]*)", versions))
    return Row(client, code.strip("`"), tuple(word.strip() for word in tried.split(",")), found)


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def line_of(client: str, url: str) -> str:
    """The documented line of ``client``, with the address of a running gateway."""
    line = rows()[client].line
    assert ADDRESS in line, f"the line of {client} does not name {ADDRESS}"
    return line.replace(ADDRESS, url)


def missing(client: str) -> str | None:
    """Why a client cannot be tried here, and how to install it; None if it can be."""
    for name, _ in rows()[client].versions:
        if client == "curl":
            return None if shutil.which(name) else "curl is not installed: apt-get install curl"
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed: {INSTALL}"
    return None


def made(line: str) -> Any:
    """The value of a line of Python."""
    namespace: dict[str, Any] = {}
    for node in ast.walk(ast.parse(line, mode="eval")):
        if isinstance(node, ast.Attribute):
            _import_prefixes(ast.unparse(node).split("."), namespace)
    return eval(line, namespace)


def _import_prefixes(path: list[str], namespace: dict[str, Any]) -> None:
    """Import ``a``, ``a.b`` and so on, up to the first name that is no module. The last is never one."""
    if not all(part.isidentifier() for part in path):
        return
    namespace[path[0]] = importlib.import_module(path[0])
    for end in range(2, len(path)):
        name = ".".join(path[:end])
        if importlib.util.find_spec(name) is None:
            return
        importlib.import_module(name)
