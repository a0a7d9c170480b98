"""Finds a path in a file that may not fit the schema, by the keys as the file spells them."""

from __future__ import annotations

import re

from sage_inference.config.names import quoted
from sage_inference.config.schema import Step
from sage_inference.config.tree import Mapping, Node, Sequence

_INDEX = re.compile(r"\[?([0-9]{1,6})\]?(?=[.\[]|$)")


def steps_in(node: Node | None, path: str) -> tuple[Step, ...] | None:
    """The steps of ``path`` to a value below ``node``, at least one, or None if there is no such value.

    Keys may have dots, so the longest key that fits is tried first.
    """
    for step, below, end in _fitting(node, path):
        rest = path[end:].removeprefix(".")
        if not rest:
            return (step,)
        further = steps_in(below, rest)
        if further is not None:
            return (step, *further)
    return None


def _fitting(node: Node | None, path: str) -> list[tuple[Step, Node, int]]:
    """The entries of ``node`` with which ``path`` can begin, and the offset of the rest of the path after each."""
    if isinstance(node, Sequence):
        index = _INDEX.match(path)
        at = int(index[1]) if index else len(node.items)
        return [(at, node.items[at], index.end())] if index and at < len(node.items) else []
    if not isinstance(node, Mapping):
        return []
    found: list[tuple[Step, Node, int]] = []
    for key, value in node.written:
        for spelling in (key.text, quoted(key.text), f"[{key.text}]"):
            if path.startswith(spelling) and path[len(spelling) : len(spelling) + 1] in ("", ".", "["):
                found.append((key.text, value, len(spelling)))
    return sorted(found, key=lambda each: -each[2])
