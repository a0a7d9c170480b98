"""A table whose rows are not all known when the first ones are shown: one line a row, which is never wrapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import typer

from sage_inference.cli.table import GAP
from sage_inference.visible import visible

_EMPTY = ("", "-")


@dataclass(frozen=True, slots=True)
class LogColumn:
    """``usual`` is the width that its cells mostly have, and ``least`` the one to which longer cells may be cut."""

    header: str
    rank: int  # columns of a higher rank are left out first where a terminal is narrow
    usual: int
    least: int
    is_number: bool = False


class GrowingTable:
    """Gives rows the columns that fit the width, and the widest cells so far.

    Without a width all columns are shown, and no cell is cut. With one, columns that had no value yet are not shown.
    """

    def __init__(self, columns: Sequence[LogColumn]) -> None:
        self._columns = columns
        self._naturals = [max(len(each.header), each.usual) for each in columns]
        self._is_used = [False] * len(columns)
        self._width: int | None = None
        self._widths: dict[int, int] = {}  # of the columns that are shown

    @property
    def left_out(self) -> list[str]:
        """The headers of used columns that have no room."""
        return [
            each.header
            for at, each in enumerate(self._columns)
            if self._is_used[at] and at not in self._widths
        ]

    def lines(
        self,
        rows: Sequence[Sequence[str]],
        width: int | None,
        styles: Sequence[str | None] = (),
        styled_column: int = 0,
    ) -> list[str]:
        """A line a row, after a line of headers if the columns are others than before. ``styles`` colour a cell a row."""
        made = [[visible(cell) for cell in row] for row in rows]
        for row in made:
            for at, cell in enumerate(row):
                self._naturals[at] = max(self._naturals[at], len(cell))
                self._is_used[at] |= cell not in _EMPTY
        shown = self._widths.keys()
        self._widths = self._fitted(width)
        lines = []
        if self._widths.keys() != shown or width != self._width:
            lines.append(self._line([each.header for each in self._columns], width, bold=True))
        self._width = width
        for number, row in enumerate(made):
            style = styles[number] if number < len(styles) else None
            lines.append(self._line(row, width, style, styled_column))
        return lines

    def _fitted(self, width: int | None) -> dict[int, int]:
        if width is None:
            return dict(enumerate(self._naturals))
        shown = [at for at in range(len(self._columns)) if self._is_used[at]]
        while len(shown) > 1 and sum(map(self._least, shown)) + GAP * (len(shown) - 1) > width:
            shown.remove(max(shown, key=lambda at: self._columns[at].rank))
        widths = {at: self._least(at) for at in shown}
        spare = width - sum(widths.values()) - GAP * (len(shown) - 1)
        for at in sorted(shown, key=lambda at: self._columns[at].rank):
            more = max(min(self._naturals[at] - widths[at], spare), 0)
            widths[at] += more
            spare -= more
        return widths

    def _least(self, at: int) -> int:
        column = self._columns[at]
        return min(self._naturals[at], max(column.least, len(column.header)))

    def _line(
        self,
        cells: Sequence[str],
        width: int | None,
        style: str | None = None,
        styled_column: int = 0,
        *,
        bold: bool = False,
    ) -> str:
        pieces = []
        for at, size in self._widths.items():
            cell = _cut(cells[at], size if width is None else min(size, width))
            pad = " " * (size - len(cell))
            if bold and cell:
                cell = typer.style(cell, bold=True)
            elif at == styled_column and style is not None:
                cell = typer.style(cell, fg=style)
            pieces.append(pad + cell if self._columns[at].is_number else cell + pad)
        return (" " * GAP).join(pieces).rstrip()


def _cut(cell: str, size: int) -> str:
    return cell if len(cell) <= size else f"{cell[: max(size - 1, 0)]}…"
