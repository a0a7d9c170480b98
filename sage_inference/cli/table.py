"""Columns of text: aligned, and wrapped to the width of a terminal if there is one.

Rich is not used, because its import takes more than half of the time that ``status`` may take.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import typer

from sage_inference.visible import visible

GAP = 2
NARROWEST = 16  # a column is not wrapped to less, unless its header and cells are shorter


def width_of_terminal() -> int | None:
    """None without a terminal: a file or pipe gets one record a line of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def render(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    styles: Sequence[str | None] = (),
    styled_column: int | None = None,
) -> str:
    """The table as text, its cells made visible, in lines of at most ``width``; ``styles`` colour one cell a row.

    The widest columns are wrapped. If that does not suffice, each row is a list of its cells.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    natural = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    widths = natural if width is None else _fitted(headers, natural, width - GAP * (len(natural) - 1))
    if widths is None:
        assert width is not None
        return _records(headers, rows, width, styles, styled_column)
    lines = [_line(headers, widths, bold=True)]
    for number, row in enumerate(rows):
        style = styles[number] if number < len(styles) else None
        wrapped = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for at in range(max(map(len, wrapped))):
            cells = [pieces[at] if at < len(pieces) else "" for pieces in wrapped]
            lines.append(_line(cells, widths, style, styled_column))
    return "\n".join(lines)


def fits(headers: Sequence[str], columns: Sequence[Sequence[str]], width: int, *, longest: int) -> bool:
    """Whether columns of cells fit in ``width`` side by side, if cells longer than ``longest`` are wrapped."""
    natural = [max(map(len, [header, *column])) for header, column in zip(headers, columns, strict=True)]
    room = width - GAP * (len(natural) - 1)
    return (
        sum(max(len(header), min(size, longest)) for header, size in zip(headers, natural, strict=True))
        <= room
    )


def _fitted(headers: Sequence[str], natural: Sequence[int], room: int) -> list[int] | None:
    """The widths of columns that fit in ``room``, the widest cut first; None if they cannot fit."""
    floors = [min(size, max(len(header), NARROWEST)) for header, size in zip(headers, natural, strict=True)]
    for most in range(max(room, 0), 0, -1):
        widths = [max(floor, min(size, most)) for floor, size in zip(floors, natural, strict=True)]
        if sum(widths) <= room:
            return widths
    return None


def _wrapped(cell: str, size: int) -> list[str]:
    if len(cell) <= size:
        return [cell]
    import textwrap

    return textwrap.wrap(cell, size, break_on_hyphens=False) or [""]


def _records(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    styles: Sequence[str | None],
    styled_column: int | None,
) -> str:
    """Each row as its first cell, and below it the others with their headers; those without a value are left out."""
    before = max(len(header) for header in headers[1:]) + 2 * GAP
    is_stacked = width <= before  # no room beside the headers, so the values stand below them
    before = GAP if is_stacked else before
    lines = []
    for number, row in enumerate(rows):
        lines += [typer.style(piece, bold=True) for piece in _wrapped(row[0], max(width, 1))]
        for at, (header, cell) in enumerate(zip(headers, row, strict=True)):
            if at == 0 or cell in ("", "-"):
                continue
            style = styles[number] if at == styled_column and number < len(styles) else None
            if is_stacked:
                lines.append(" " * GAP + header)
            for nth, piece in enumerate(_wrapped(cell, max(width - before, 1))):
                label = " " * GAP + header if nth == 0 and not is_stacked else ""
                lines.append(label.ljust(before) + (typer.style(piece, fg=style) if style else piece))
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
    elif style is not None and styled_column is not None and cells[styled_column]:
        padded[styled_column] = typer.style(padded[styled_column], fg=style)
    return (" " * GAP).join(padded).rstrip()
