"""The choices of a person, and the changes that keys make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sage_inference.cli.top.rows import Row
from sage_inference.cli.top.tables import TABLES, TopColumn, TopTable

_ORDER = tuple(TABLES)
_LONGEST = 200  # characters of a filter
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}
_JUMPS = {"home": -(10**9), "g": -(10**9), "end": 10**9, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Sorting:
    """By a column; None is the table's own order. Numbers come with the largest first, unless ``reverse`` is set."""

    column: str | None = None
    reverse: bool = False


@dataclass(slots=True)
class TableView:
    """One table: its order, the row that is selected, and what the last frame showed of it."""

    sorting: Sorting = Sorting()
    selected: Any = None  # the key of a row
    top: int = 0  # the first row that is shown
    page: int = 1  # rows that are shown
    columns: Sequence[TopColumn] = ()
    keys: list[Any] = field(default_factory=list)  # of all rows, in their order
    widths: dict[str, int] = field(default_factory=dict)  # columns never get narrower, so they do not jump


@dataclass(slots=True)
class TopView:
    """The state of the screen. ``press`` changes it."""

    focus: str = "engines"
    is_alone: bool = False  # the table with the focus has the whole screen
    filter: str = ""
    typing: str | None = None  # the filter before this one, while it is typed
    is_paused: bool = False
    shows_help: bool = False
    shows_details: bool = False
    details_top: int = 0  # the first line of the details that is shown
    explanation: list[dict[str, Any]] | str | None = None  # of the request whose details are shown
    tables: dict[str, TableView] = field(default_factory=lambda: {name: TableView() for name in _ORDER})

    @property
    def table(self) -> TableView:
        return self.tables[self.focus]

    def press(self, key: str) -> bool:
        """Take a key. Returns True if it ends the view."""
        if key == "end of input":
            return True
        if self.typing is not None:
            self._type(key)
            return False
        if self.shows_help or self.shows_details:
            return self._press_above(key)
        if key in ("q", "Q"):
            return True
        if key in _MOVES:
            self._move(_MOVES[key])
        elif key in _JUMPS:
            self._move(_JUMPS[key])
        elif key in ("page up", "page down"):
            self._move(self.table.page * (1 if key == "page down" else -1))
        elif key in ("left", "right", "<", ">"):
            self._sort_by_next(1 if key in ("right", ">") else -1)
        else:
            self._choose(key)
        return False

    def _press_above(self, key: str) -> bool:
        """Take a key while the help or details cover the tables. Details scroll, and other keys close both."""
        step = {**_MOVES, "page up": -10, "page down": 10}.get(key)
        if self.shows_details and step is not None:
            self.details_top = max(self.details_top + step, 0)
            return False
        self.shows_help = self.shows_details = False
        return key in ("q", "Q")

    @property
    def explained(self) -> str | None:
        """The id of the request whose details are shown."""
        if not self.shows_details or self.focus != "requests" or self.table.selected is None:
            return None
        return str(self.table.selected[0])

    def _choose(self, key: str) -> None:
        match key:
            case "r" | "R" | "I":
                self.table.sorting = replace(self.table.sorting, reverse=not self.table.sorting.reverse)
            case "tab" | "back tab":
                step = 1 if key == "tab" else -1
                self.focus = _ORDER[(_ORDER.index(self.focus) + step) % len(_ORDER)]
            case "1" | "2" | "3":
                self.focus = _ORDER[int(key) - 1]
            case "z":
                self.is_alone = not self.is_alone
            case "/" | "f":
                self.typing = self.filter
            case "p" | " ":
                self.is_paused = not self.is_paused
            case "?" | "h":
                self.shows_help = True
            case "enter":
                self.shows_details, self.details_top = self.table.selected is not None, 0
            case "escape":
                self._let_go()

    def _let_go(self) -> None:
        """Escape: the selection goes first, then the filter."""
        if self.table.selected is not None:
            self.table.selected = None
            self.table.top = 0
        else:
            self.filter = ""

    def _type(self, key: str) -> None:
        if key == "enter":
            self.typing = None
        elif key == "escape":
            self.filter, self.typing = self.typing or "", None
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif key == "clear":
            self.filter = ""
        elif key in ("up", "down"):
            self._move(_MOVES[key])
        elif len(key) == 1 and len(self.filter) < _LONGEST:
            self.filter += key

    def _move(self, by: int) -> None:
        table = self.table
        if not table.keys:
            return
        if table.selected in table.keys:
            at = table.keys.index(table.selected) + by
        else:
            at = table.top if by > 0 else table.top + table.page - 1
            at = len(table.keys) - 1 if by >= len(table.keys) else 0 if by <= -len(table.keys) else at
        table.selected = table.keys[min(max(at, 0), len(table.keys) - 1)]

    def _sort_by_next(self, step: int) -> None:
        table = self.table
        names = [None, *(column.name for column in table.columns if column.name)]
        at = names.index(table.sorting.column) if table.sorting.column in names else 0
        table.sorting = Sorting(names[(at + step) % len(names)])

    def found_in(self, table: TopTable, rows: Sequence[Row]) -> list[Row]:
        """The rows that have all words of the filter."""
        words = self.filter.lower().split()
        return [row for row in rows if table.matches(row, words)] if words else list(rows)

    def in_order(self, table: TopTable, rows: list[Row]) -> list[Row]:
        return _sorted(table, rows, self.tables[table.name].sorting)

    def rows_of(self, table: TopTable, rows: Sequence[Row]) -> list[Row]:
        """The rows that the filter leaves, in order."""
        return self.in_order(table, self.found_in(table, rows))


def _sorted(table: TopTable, rows: list[Row], sorting: Sorting) -> list[Row]:
    column = None if sorting.column is None else table.column(sorting.column)
    if column is None:
        return rows[::-1] if sorting.reverse else rows
    pairs = [(column.value(row), row) for row in rows]
    known = [pair for pair in pairs if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=column.is_number != sorting.reverse)
    return [row for _, row in known] + [row for value, row in pairs if value is None]
