"""The blocks of docs/cluster.md, as a person copies them."""

from __future__ import annotations

import re
from pathlib import Path

import sage_inference

_PAGE = Path(sage_inference.__file__).parent / "docs" / "cluster.md"


def blocks(heading: str, language: str) -> list[str]:
    """The blocks of a language in the part under a heading such as ``## Slurm``, its smaller headings included."""
    level = heading.count("#")
    _, _, part = _PAGE.read_text().partition(f"\n{heading}\n")
    end = re.search(rf"^#{{1,{level}}} ", re.sub(r"^```.*?^```$", _blank, part, flags=re.S | re.M), re.M)
    return re.findall(rf"^```{language}\n(.*?)^```$", part[: end.start()] if end else part, re.S | re.M)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])
