"""The tables of a run, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.gpu.parts import PARTS
from tests.bench.gpu.run import Row


def tables(rows: Sequence[Row]) -> str:
    lines = []
    for name, part in PARTS.items():
        own = [row for row in rows if row["key"].split("/")[0] == name]
        if own:
            lines += [f"### {name}", "", *part.table(own), ""]
    return "\n".join(lines)
