"""The page of Python names shows the signatures and members that the code has."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import sage_inference

PAGE = Path(sage_inference.__file__).parent / "docs" / "python.md"
ROWS = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE)


def shown(name: str) -> str:
    """What the page shows of the name, as it must be."""
    owner, _, member = name.partition(".")
    found: Any = getattr(sage_inference, owner)
    if member and isinstance(inspect.getattr_static(found, member), property):
        return f"`{member}`"
    found = getattr(found, member) if member else found
    if isinstance(found, type) and issubclass(found, Enum):
        return ", ".join(f"`{one}`" for one in found.__members__)
    return f"`{member or owner}({', '.join(parameters(found))})`"


def parameters(call: Any) -> list[str]:
    words: list[str] = []
    for one in inspect.signature(call).parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if one.kind is one.VAR_KEYWORD:
            words.append(f"**{one.name}")
        else:
            words.append(one.name if one.default is one.empty else f"{one.name}=…")
    return words


@pytest.mark.parametrize(("name", "signature"), ROWS, ids=[name for name, _ in ROWS])
def test_the_page_shows_what_the_code_has(name: str, signature: str) -> None:
    assert signature == shown(name)


def test_the_page_names_the_whole_library() -> None:
    left_out = {one for one in sage_inference.__all__ if one[0].isupper() and not one.endswith("Error")}
    # A batch is constructed by the gateway alone; streams are what a client returns; the last is an old name.
    left_out -= {"EmbeddingBatch", "TextStream", "AsyncTextStream", "UnifiedClient"}
    assert left_out <= {name for name, _ in ROWS}
