"""The whole screen as lines: the gateway, its GPUs, the tables, and the keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from sage_inference.cli.top import grid
from sage_inference.cli.top.details import details_of
from sage_inference.cli.top.grid import Line, Styled, cut
from sage_inference.cli.top.rows import Row
from sage_inference.cli.top.seen import Picture
from sage_inference.cli.top.summary import summary
from sage_inference.cli.top.tables import ENGINES, TABLES, TopTable
from sage_inference.cli.top.view import TableView, TopView

_ENDED = 20  # requests that ended, where all rows are listed
_LEAST_TABLE = 3  # lines: a title, a head and a row
_SPLIT_FROM = 2 * _LEAST_TABLE + 2  # a screen with fewer lines shows one table alone
_KEYS = (
    ("q", "quit"), ("?", "help"), ("←→", "sort"), ("r", "reverse"), ("/", "filter"), ("Tab", "table"),
    ("↑↓", "select"), ("Enter", "details"), ("z", "zoom"), ("p", "pause"),
)  # fmt: skip
_HELP = (
    ("q, Ctrl-C", "end"),
    ("Tab, 1 2 3", "the next table; engines, requests, queue"),
    ("↑ ↓ PgUp PgDn Home End", "select a row"),
    ("← →", "sort by another column"),
    ("r", "reverse the order"),
    ("/ or f", "show only rows with these words; Escape takes it back"),
    ("Enter", "all facts of the selected row, and the decision on a request"),
    ("Escape", "release the row, then the filter"),
    ("z", "give the table the whole screen, and back"),
    ("p, Space", "pause, and go on"),
    ("Ctrl-L", "draw again"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """Columns and lines of a terminal. None: without bounds, as in a pipe."""

    width: int | None = None
    height: int | None = None


def frame(picture: Picture, view: TopView, size: Size) -> list[Line]:
    """The lines, at most ``size.height`` of them and none wider than ``size.width``.

    The view learns from it which rows and columns it shows.
    """
    if size.height is None or size.width is None:
        return _unbounded(picture, view, size.width)
    width, height = size.width, size.height
    if view.shows_help:
        return _bounded([*_help(), [Styled("any key closes", "dim")]], width, height)
    if view.shows_details:
        return _bounded(_details(picture, view, width, height - 1), width, height)
    top = summary(picture, width)
    room = height - 1
    top = top[: max(min(room // 2, room - _LEAST_TABLE), min(1, room))]
    lines = [*top, *_tables(picture, view, width, room - len(top))]
    lines += _blank(room - len(lines))
    return _bounded([*lines, _footer(view, picture)], width, height)


def _details(picture: Picture, view: TopView, width: int, room: int) -> list[Line]:
    found = details_of(picture, view, width)
    view.details_top = max(min(view.details_top, len(found) - room), 0)
    keys = "↑↓ scroll, any other key closes" if len(found) > room else "any key closes"
    shown = found[view.details_top : view.details_top + max(room, 0)]
    return [*shown, [Styled(keys, "dim")]]


def _bounded(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """The lines that fit, the last one always among them."""
    if len(lines) > height:
        lines = [*lines[: height - 1], lines[-1]] if height > 0 else []
    return [_cut_line(each, width) for each in lines]


def _cut_line(line: Line, width: int) -> Line:
    if sum(cell_len(piece.text) for piece in line) <= width:
        return line
    pieces: Line = []
    for piece in line:
        room = width - sum(cell_len(each.text) for each in pieces)
        if cell_len(piece.text) > room:
            pieces.append(Styled(cut(piece.text, room), piece.style))
            break
        pieces.append(piece)
    return pieces


def _blank(count: int) -> list[Line]:
    return [[] for _ in range(max(count, 0))]


def _unbounded(picture: Picture, view: TopView, width: int | None) -> list[Line]:
    """The rows of all tables, or of the one that stands alone. A pipe and ``--once`` get these."""
    lines = summary(picture, width)
    for table in TABLES.values():
        if view.is_alone and table.name != view.focus:
            continue
        rows = view.in_order(table, _listed(view.found_in(table, picture.tables[table.name])))
        if view.is_alone or (rows and (table.name != "queue" or picture.document["queue"]["requests"])):
            view.tables[table.name].widths.clear()
            lines += [*_table(table, view, rows, width, len(rows) + 2), []]
    lines.pop()  # the last empty line
    return lines if width is None else _bounded(lines, width, len(lines))


def _listed(rows: list[Row]) -> list[Row]:
    """All rows, but of requests that ended only the newest."""
    found, ended = [], 0
    for row in rows:
        ended += row.get("number") is not None
        if ended <= _ENDED or row.get("number") is None:
            found.append(row)
    return found


def _tables(picture: Picture, view: TopView, width: int, room: int) -> list[Line]:
    """The engines and one of the other tables, or the table with the focus alone."""
    focus = TABLES[view.focus]
    rows = {name: view.rows_of(TABLES[name], picture.tables[name]) for name in (ENGINES.name, *_below(view))}
    if view.is_alone or room < _SPLIT_FROM:
        found = rows.get(focus.name)
        return _table(focus, view, found if found is not None else [], width, room)
    [below] = _below(view)
    engines = min(len(rows[ENGINES.name]) or 1, max(room // 2 - 2, 1, room - len(rows[below]) - 5)) + 2
    return [
        *_table(ENGINES, view, rows[ENGINES.name], width, engines),
        [],
        *_table(TABLES[below], view, rows[below], width, room - engines - 1),
    ]


def _below(view: TopView) -> Sequence[str]:
    return ["queue" if view.focus == "queue" else "requests"]


def _table(table: TopTable, view: TopView, rows: list[Row], width: int | None, room: int) -> list[Line]:
    """A title, a head, and the rows that have room. ``room`` are lines."""
    state = view.tables[table.name]
    shown = _scrolled(state, rows, max(room - 2, 0))
    lines = [_title(table, view, len(rows), len(shown))]
    if not rows:
        words = "no row has these words" if view.filter else table.empty
        return [*lines, [Styled(words, "dim")]][: max(room, 0)]
    body = grid.grid(table.columns, shown, state, width)
    if view.focus == table.name and state.selected in state.keys:
        at = 1 + state.keys.index(state.selected) - state.top
        if 1 <= at < len(body):
            body[at] = _marked(body[at], width)
    return [*lines, *body][: max(room, 0)]


def _marked(line: Line, width: int | None) -> Line:
    size = sum(cell_len(piece.text) for piece in line)
    line = [*line, Styled(" " * max((width or 0) - size, 0))]
    return [Styled(piece.text, "reverse") for piece in line]


def _scrolled(state: TableView, rows: list[Row], room: int) -> list[Row]:
    """The rows that the table shows, so that the selected one is among them."""
    state.keys, state.page = [row["key"] for row in rows], max(room, 1)
    if state.selected is not None:
        if state.selected in state.keys:
            at = state.keys.index(state.selected)
            state.top = min(max(state.top, at - room + 1), at)
        else:
            state.selected = None
    state.top = max(min(state.top, len(rows) - room), 0)
    return rows[state.top : state.top + room]


def _title(table: TopTable, view: TopView, all_rows: int, shown: int) -> Line:
    has_focus = table.name == view.focus
    line = [Styled(f" {table.title} ", "reverse" if has_focus else "bold")]
    top = view.tables[table.name].top
    if shown < all_rows:
        line.append(Styled(f" {top + 1}{_dash(top, shown)} of {all_rows:,}", "dim"))
    else:
        line.append(Styled(f" {all_rows:,}", "dim"))
    if view.filter:
        line.append(Styled(f" with {view.filter}", "yellow"))
    return line


def _dash(top: int, shown: int) -> str:
    return f"-{top + shown}" if shown > 1 else ""


def _footer(view: TopView, picture: Picture) -> Line:
    if view.typing is not None:
        return [
            Styled("filter: ", "bold"),
            Styled(view.filter),
            Styled(" ", "reverse"),
            Styled("  Enter keeps it, Escape takes it back", "dim"),
        ]
    line: Line = []
    if view.is_paused:
        moment = time.strftime("%H:%M:%S", time.localtime(picture.document["at_ms"] / 1000))
        line = [Styled(f" paused at {moment} ", "reverse yellow"), Styled("  ")]
    for key, word in _KEYS:
        line += [Styled(key, "bold"), Styled(f" {word}  ", "dim")]
    return line


def _help() -> list[Line]:
    longest = max(len(keys) for keys, _ in _HELP)
    lines: list[Line] = [[Styled("sage inference top", "bold")], []]
    lines += [[Styled(keys.ljust(longest + 2), "bold"), Styled(words)] for keys, words in _HELP]
    return [*lines, [], [Styled("Rates are of the last second, TTFT and TPOT of the last ten.", "dim")]]
