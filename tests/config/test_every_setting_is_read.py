"""A setting that no code reads does nothing: each one is read somewhere outside ``config``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sage_inference
from sage_inference.config.document import rows
from sage_inference.config.settings import PRIORITIES

PACKAGE = Path(sage_inference.__file__).parent
OTHERS = {PACKAGE / "config", PACKAGE / "simulator", PACKAGE / "bench"}
# What the code calls the object that holds a section's settings, beside the section's own name.
OWNERS = {
    "": {"settings"},
    "instances": {"settings"},
    "sources": {"source", "settings", "_settings"},
    "engines": {"engine", "entry"},
    "engines[].instance": {"options"},
    "api_keys": {"key", "entry"},
    "api_keys[].limits": {"limits"},
    "scheduling": {"settings"},
    "scheduling.slo": {"t", "settings"},
    "scheduling.slo.models.NAME": {"t"},
    **{
        f"scheduling.slo{models}.{priority}": {"t"}  # read by name
        for models in ("", ".models.NAME")
        for priority in PRIORITIES
    },
    "health": {"_settings"},
    "logging": {"settings"},
}
# Read within the configuration alone: a rule, and the law for an instance's name (``config.check.name_of``).
CHECKED = {"server.insecure", "instances[].name", "engines[].name", "engines[].served_names"}
# Read by the name of a recipe.
# ``source_rules`` reads it for the place and the name of a source.
CHECKED |= {"sources[].application"}
CHECKED |= {f"managed.{name}" for name in ("vllm", "tei", "infinity", "llama_server")}


def read() -> Iterator[tuple[str, str]]:
    """Each ``owner.attribute`` that the product reads, by the last name of the owner."""
    for file in PACKAGE.rglob("*.py"):
        if OTHERS & set(file.parents):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                if isinstance(owner, ast.Attribute):
                    yield owner.attr, node.attr
                elif isinstance(owner, ast.Name):
                    yield owner.id, node.attr


@pytest.fixture(scope="module")
def found() -> set[tuple[str, str]]:
    return set(read())


@pytest.mark.parametrize("key", [row.key for row in rows()])
def test_setting_is_read(key: str, found: set[tuple[str, str]]) -> None:
    section, _, name = key.rpartition(".")
    section = section.removesuffix("[]")
    owners = OWNERS.get(section, set()) | {section}
    assert key in CHECKED or any((owner, name) in found for owner in owners), f"nobody reads {key}"


def test_a_setting_that_nobody_reads_would_be_found(found: set[tuple[str, str]]) -> None:
    assert not any((owner, "no_such_setting") in found for owner in ("settings", "logging"))
    assert ("logging", "access") in found
