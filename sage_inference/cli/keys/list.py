"""``keys list``: the keys, their limits, and what was used today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_inference.cli import table, terminal
from sage_inference.cli.columns import Column, render
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.numbers import count
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path

if TYPE_CHECKING:
    from sage_inference.config.key_entries import KeyEntry

app = plain_app()
Row = dict[str, Any]
_USE = (
    "requests_today",
    "tokens_today",
    "requests_last_minute",
    "tokens_last_minute",
    "tokens_reserved",
    "running",
    "refused",
)


@app.command("list", cls=PlainCommand)
def list_(file: ConfigFile = None, as_json: Json = False, no_color: NoColor = False) -> None:
    """Show the keys, their limits, and what was used today.

    The use is known while the gateway runs. A day begins at midnight, by UTC. Keys of one name are counted together.
    """
    from sage_inference.config.key_entries import entries_of
    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.errors import DaemonError
    from sage_inference.daemon.keys import running_keys

    paths = Paths.resolve(as_path(file))
    entries = entries_of(load(paths.config_file, required=file is not None).api_keys)
    try:
        running = running_keys(paths)
    except DaemonError as error:
        running = None
        terminal.warn(f"what was used is not known: {error.problem}", error.hint)
    rows = _rows(entries, running)
    if as_json:
        terminal.say_json(
            {
                "schema": 1,
                "config_path": str(paths.config_file),
                "running": running is not None,
                "keys": rows,
            }
        )
    elif rows:
        _show(rows)
    else:
        terminal.say("there are no keys: the gateway is open to every caller that reaches it")


def _rows(entries: Sequence[KeyEntry], running: list[Row] | None) -> list[Row]:
    """The entries of the file, and behind them the keys that only the gateway has."""
    by_id = {row["id"]: row for row in running or ()}
    by_name = {row["name"]: row for row in running or ()}
    rows = []
    for entry in entries:
        known = by_id.pop(entry.id, None) if entry.id else by_name.get(entry.name)
        if known is not None:
            by_id.pop(known["id"], None)
        state = None if running is None else known is not None
        rows.append(_row(entry, state, known or by_name.get(entry.name)))
    return rows + [_row(None, True, row) for row in by_id.values()]


def _row(entry: KeyEntry | None, applied: bool | None, use: Row | None) -> Row:
    from sage_inference.config.document import plain
    from sage_inference.config.settings import ApiKeySettings

    settings = ApiKeySettings() if entry is None else entry.settings
    return {
        "name": entry.name if entry is not None else use and use["name"],
        "id": entry.id if entry is not None else use and use["id"],
        "source": None if entry is None else entry.source,
        "priority": settings.priority,
        "weight": settings.weight,
        "limits": plain(settings.limits),
        "applied": applied,
        **{name: None if use is None else use[name] for name in _USE},
    }


def _show(rows: list[Row]) -> None:
    columns = [
        Column("NAME", [row["name"] for row in rows], 0),
        Column("ID", [row["id"] or "-" for row in rows], 1),
        Column("STATE", [_state(row) for row in rows], 2),
        Column("TOKENS/DAY", [_use(row, "tokens_today", "tokens_per_day") for row in rows], 3),
        Column("REQUESTS/MIN", [_use(row, "requests_last_minute", "requests_per_minute") for row in rows], 4),
        Column("TOKENS/MIN", [_use(row, "tokens_last_minute", "tokens_per_minute") for row in rows], 5),
        Column("AT ONCE", [_use(row, "running", "concurrent_requests") for row in rows], 6),
        Column("MODELS", [", ".join(row["limits"]["models"]) or "-" for row in rows], 7),
    ]
    shown = [column for column in columns if column.header == "STATE" or not column.is_empty]
    styles = [None if row["applied"] is None else "green" if row["applied"] else "yellow" for row in rows]
    text, remark = render(shown, table.width_of_terminal(), styles)
    terminal.say_made(text)
    if remark:
        terminal.talk(remark)


def _state(row: Row) -> str:
    if row["applied"] is None:
        return "-"
    if row["source"] is None:
        return "in use, not in the file"
    return "in use" if row["applied"] else "not applied"


def _use(row: Row, used: str, limit: str) -> str:
    """``12 of 600``, ``12`` without a limit, ``600`` without a gateway."""
    most, now = row["limits"][limit], row[used]
    if most is None:
        return "-" if not now else count(now)
    return count(most) if now is None else f"{count(now)} of {count(most)}"
