"""Columns of text: aligned, and cut or wrapped to a terminal's width where there is one.

Written here because importing Rich costs more than half of what ``status`` may take.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import typer

from sage_inference.visible import visible

GAP = 2
NARROWEST = 16  # a last column narrower than this is left to the terminal to wrap


def width_of_terminal() -> int | None:
    """None where nobody looks: a file or pipe gets one record a line, however long."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def render(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    styles: Sequence[str | None] = (),
    styled_column: int | None = None,
) -> str:
    """The table as text, its cells made visible. The last column is wrapped to ``width``; ``styles`` colour one cell a row."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    before = sum(widths[:-1]) + GAP * (len(widths) - 1)
    last = None if width is None or width - before < NARROWEST else width - before
    lines = [_line(headers, widths, bold=True)]
    for number, row in enumerate(rows):
        style = styles[number] if number < len(styles) else None
        pieces = (textwrap.wrap(row[-1], last) or [""]) if last else [row[-1]]
        lines.append(_line([*row[:-1], pieces[0]], widths, style, styled_column))
        lines.extend(" " * before + piece for piece in pieces[1:])
    return "\n".join(lines)


def _line(
    cells: Sequence[str],
    widths: Sequence[int],
    style: str | None = None,
    styled_column: int | None = None,
    *,
    bold: bool = False,
) -> str:
    padded = [cell.ljust(size) for cell, size in zip(cells[:-1], widths, strict=False)] + [cells[-1]]
    if bold:
        padded = [typer.style(cell, bold=True) if cell else cell for cell in padded]
    elif style is not None and styled_column is not None:
        padded[styled_column] = typer.style(padded[styled_column], fg=style)
    return (" " * GAP).join(padded).rstrip()
