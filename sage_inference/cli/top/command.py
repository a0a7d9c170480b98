"""``top``: engines, requests and queue, live."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sage_inference.cli.complete import top_columns, top_tables
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import OUTPUT, NoColor, check_choice

app = plain_app()
_LEAST_S, _MOST_S = 1.0, 3600.0
_CHOICE = "What it shows"


@app.command(cls=PlainCommand)
def top(
    context: typer.Context,
    table: Annotated[
        str | None,
        typer.Option(
            "--table",
            "-t",
            metavar="TABLE",
            help="Only engines, requests or queue.",
            autocompletion=top_tables,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            "-s",
            metavar="COLUMN",
            help="Sort by a column of any table, such as ttft or tokens/s.",
            autocompletion=top_columns,
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", "-r", help="The other way round.", rich_help_panel=_CHOICE)
    ] = False,
    words: Annotated[
        str,
        typer.Option(
            "--filter",
            "-f",
            metavar="WORDS",
            help="Only rows that have all of these words.",
            rich_help_panel=_CHOICE,
        ),
    ] = "",
    interval: Annotated[
        float, typer.Option("--interval", "-i", metavar="SECONDS", help="The time between two looks.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show one state and end.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, schema 1.", rich_help_panel=OUTPUT)
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Watch engines, requests and queue live.

    Keys: arrows select a row and sort by a column, r reverses the order, / filters, Tab goes to the next table, Enter
    shows all facts of a row, q ends, ? shows all keys.

    A pipe gets one state below the other, and with --json one object a line. Both begin after a second, because rates
    need two looks. If the gateway restarts, top connects again.

    \b
    Examples:
      sage inference top
      sage inference top --table requests --sort ttft
      sage inference top --filter "qwen 429"
      sage inference top --once
      sage inference top --json | jq .live.rates
    """
    if as_json and (table is not None or sort is not None or reverse or words):
        raise usage("--json has all rows as they are; --table, --sort, --reverse and --filter are for text")
    if not _LEAST_S <= interval <= _MOST_S:
        raise usage(f"--interval takes seconds from {_LEAST_S:g} to {_MOST_S:g}, not {interval:g}")
    if as_json:
        _print_documents(interval, once=once)
    else:
        _show(context.color, (table, sort, reverse, words), interval, once=once)


def _print_documents(interval: float, *, once: bool) -> None:
    from sage_inference.cli.top.feed import glances
    from sage_inference.cli.top.printed import documents
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.control import running

    try:
        documents(glances(running(Paths.resolve()), earlier=False), interval, once=once)
    except KeyboardInterrupt:
        return


def _show(
    colour: bool | None, chosen: tuple[str | None, str | None, bool, str], interval: float, *, once: bool
) -> None:
    from sage_inference.cli.top.feed import glances
    from sage_inference.cli.top.tables import TABLES, sortable
    from sage_inference.cli.top.view import Sorting, TopView
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.control import running

    table, sort, reverse, words = chosen
    view = TopView(filter=words)
    if table is not None:
        check_choice("table", table, tuple(TABLES))
        view.focus, view.is_alone = table, True
    if sort is not None:
        sort = sort.lower()
        check_choice("column", sort, sortable())
    for name, each in TABLES.items():
        known = sort is not None and each.column(sort) is not None
        view.tables[name].sorting = Sorting(sort if known else None, reverse and (known or sort is None))
    feed = glances(running(Paths.resolve()))
    try:
        if not once and _is_screen():
            from sage_inference.cli.top.screen import show

            show(feed, view, interval, colour)
        else:
            from sage_inference.cli.top.printed import text

            text(feed, view, interval, colour, once=once)
    except KeyboardInterrupt:
        return


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
