"""The comments of an entry in YAML text, which go with it: those directly above it, and those at the end of its block.

A comment above belongs to an entry if it stands at the entry's column and no blank line is between. Three kinds stay: the
head of the file, what stands before a blank line, and another key that is commented out.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_COMMENT = re.compile(r"( *)#[^\n]*")
_OUTCOMMENTED = re.compile(r" *# ?([\w.-]+):(?:\s|$)")


def own_comments(
    text: str, start: int, end: int, *, floor: int, inner: int | None = None, others: Collection[str] = ()
) -> list[tuple[int, int]]:
    """The spans of whole lines that hold the comments of the entry from ``start`` to ``end``, the last first.

    ``floor``: where the text before the entry ends; 0 at the start of the file. ``inner``: the column of the entries
    of a block. ``others``: keys that may stand beside this one; a comment that sets one of them stays.
    """
    found = []
    first = _line_start(text, start)
    below = _line_end(text, end)
    tail = below if inner is None else _tail(text, below, max(inner, start - first + 1))
    if tail > below:
        found.append((below, tail))
    if not text[first:start].strip(" "):
        above = _run(text, first, start - first, _line_end(text, floor) if floor else 0, others)
        if above < first and (above or floor):
            found.append((above, first))
    return found


def _run(text: str, first: int, column: int, floor: int, others: Collection[str]) -> int:
    """Where the comments begin that stand right above the line at ``first``."""
    while first > floor:
        above = _line_start(text, first - 1)
        comment = _COMMENT.match(text, above)
        if comment is None or len(comment[1]) != column:
            break
        outcommented = _OUTCOMMENTED.match(text, above)
        if outcommented and outcommented[1] in others:
            break
        first = above
    return first


def _tail(text: str, at: int, column: int) -> int:
    """Where the comments end that follow ``at`` and stand no further left than ``column``; blank lines may be between."""
    found = at
    while at < len(text):
        line_end = _line_end(text, at)
        comment = _COMMENT.match(text, at)
        if comment is not None and len(comment[1]) >= column:
            found = line_end
        elif text[at:line_end].strip():
            break
        at = line_end
    return found


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1
