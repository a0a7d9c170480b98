"""A table whose least important columns are left out where a terminal is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_inference.cli import table

BASIC = 3  # the highest rank of a column that a narrow terminal shows, if need be with wrapped cells
_WRAPPED = 32  # longer cells are wrapped before a column is left out


@dataclass(frozen=True, slots=True)
class Column:
    header: str
    cells: list[str]
    rank: int  # columns of a higher rank are left out first where a terminal is narrow

    @property
    def is_empty(self) -> bool:
        return all(cell in ("", "-") for cell in self.cells)


def render(
    columns: Sequence[Column], width: int | None, styles: Sequence[str | None] = ()
) -> tuple[str, str | None]:
    """The table, and a remark about columns that were left out. ``styles`` colour the column STATE, one a row."""
    shown, left_out = _that_fit(columns, width)
    headers = [column.header for column in shown]
    text = table.render(
        headers,
        list(zip(*(column.cells for column in shown), strict=True)),
        width=width,
        styles=styles,
        styled_column=headers.index("STATE"),
    )
    return text, f"no room for {', '.join(left_out)}; --json has all" if left_out else None


def _that_fit(columns: Sequence[Column], width: int | None) -> tuple[list[Column], list[str]]:
    """The columns for which ``width`` suffices, and the headers of the others. Details go before cells are wrapped."""
    shown, left_out = list(columns), []
    while width is not None and len(shown) > 2:
        last = max(shown, key=lambda column: column.rank)
        headers, cells = [each.header for each in shown], [each.cells for each in shown]
        longest = _WRAPPED if last.rank > BASIC else table.NARROWEST
        if table.fits(headers, cells, width, longest=longest):
            break
        shown.remove(last)
        left_out.append(last.header)
    return shown, left_out
