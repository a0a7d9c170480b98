"""A table as lines of a given width: which columns have room, and how wide they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from sage_inference.cli.top.rows import Row
from sage_inference.cli.top.tables import NONE, TopColumn
from sage_inference.cli.top.view import Sorting, TableView
from sage_inference.visible import visible

Line = list["Styled"]

DESCENDING, ASCENDING = "\u25bc", "\u25b2"  # a terminal without Unicode gets v and ^
_MORE = "…"
_NARROWEST = 14  # a column of words is cut to no less, unless its words are shorter
_WIDE = 100  # columns of a terminal from which on two spaces stand between columns of a table


class Styled(NamedTuple):
    """A text without line breaks, and its style in the words of Rich."""

    text: str
    style: str = ""


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells of a terminal. An ellipsis stands for what was cut off."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + _MORE if width > 0 else ""


def widths_of(columns: Sequence[TopColumn], cells: Sequence[Sequence[str]]) -> list[int]:
    """The width that each column would like."""
    return [
        min(max([cell_len(head_of(column)), *(cell_len(row[at]) for row in cells)]), max(column.most, len(column.name) + 1))
        for at, column in enumerate(columns)
    ]  # fmt: skip


def head_of(column: TopColumn, sorting: Sorting | None = None) -> str:
    """The name, with a mark if the table is sorted by it. There is always room for the mark."""
    mark = " "
    if sorting is not None and sorting.column == column.name:
        mark = DESCENDING if column.is_number != sorting.reverse else ASCENDING
    name = column.name.upper()
    return f"{mark}{name}" if column.is_number else f"{name}{mark}"


def fitted(columns: Sequence[TopColumn], wanted: Sequence[int], width: int) -> tuple[list[int], int]:
    """The widths of columns in ``width``, 0 for those that have no room, and the space between them."""
    gap = 2 if width >= _WIDE else 1
    least = [want if column.is_number else min(want, _NARROWEST) for column, want in zip(columns, wanted, strict=True)]  # fmt: skip
    shown = [at for at, want in enumerate(wanted) if want]
    while len(shown) > 1 and sum(least[at] for at in shown) + gap * (len(shown) - 1) > width:
        rank, last = max((columns[at].rank, at) for at in shown)
        if rank == 0 and len(shown) <= 2:
            break
        shown.remove(last)
    sizes = [wanted[at] if at in shown else 0 for at in range(len(columns))]
    _shrink(sizes, least, width - gap * (len(shown) - 1))
    return sizes, gap


def _shrink(sizes: list[int], least: Sequence[int], room: int) -> None:
    """Take from the widest columns until they fit."""
    while sum(sizes) > room:
        at = max(range(len(sizes)), key=lambda at: (sizes[at] > least[at], sizes[at]))
        if sizes[at] <= 1:
            return
        sizes[at] -= 1


def grid(
    columns: Sequence[TopColumn], rows: Sequence[Row], state: TableView, width: int | None
) -> list[Line]:
    """A head, and a line for each row. ``width`` None: all columns, as wide as they need to be."""
    cells = [[visible(column.text(row)) for column in columns] for row in rows]
    wanted = _kept(columns, cells, state.widths)
    sizes, gap = (wanted, 2) if width is None else fitted(columns, wanted, width)
    state.columns = [column for column, size in zip(columns, sizes, strict=True) if size]
    heads = [head_of(column, state.sorting) for column in columns]
    lines = [_line(columns, heads, ["bold"] * len(heads), sizes, gap)]
    for row, texts in zip(rows, cells, strict=True):
        styles = [column.style(row) if column.style else "" for column in columns]
        lines.append(_line(columns, texts, styles, sizes, gap))
    return lines


def _kept(columns: Sequence[TopColumn], cells: Sequence[Sequence[str]], before: dict[str, int]) -> list[int]:
    """The wanted widths. No column gets narrower than it was, because figures that jump cannot be read."""
    wanted = widths_of(columns, cells)
    for at, column in enumerate(columns):
        is_empty = (
            column.is_optional and not before.get(column.name) and all(row[at] == NONE for row in cells)
        )
        before[column.name] = 0 if is_empty else max(wanted[at], before.get(column.name, 0))
    return [before[column.name] for column in columns]


def _line(
    columns: Sequence[TopColumn], cells: Sequence[str], styles: Sequence[str], sizes: Sequence[int], gap: int
) -> Line:
    """One line of the table, padded to the width of its columns."""
    pieces: Line = []
    for column, cell, style, size in zip(columns, cells, styles, sizes, strict=True):
        if not size:
            continue
        if pieces:
            pieces.append(Styled(" " * gap))
        text = cut(cell, size)
        space = " " * (size - cell_len(text))
        pieces.append(Styled(space + text if column.is_number else text + space, style))
    return pieces
