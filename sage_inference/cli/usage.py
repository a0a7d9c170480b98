"""``usage``: requests and tokens by model, key, user or time."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.complete import usage_groups
from sage_inference.cli.errors import usage as wrong_usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.numbers import count, duration
from sage_inference.cli.options import Json, NoColor

app = plain_app()
_HEADERS = ("REQUESTS", "ERRORS", "IN", "CACHED", "OUT", "TEXTS", "GPU")
# Columns go in this order where the terminal is narrow, and where all their cells are zero.
_LESS = ("TEXTS", "CACHED", "ERRORS", "GPU")


@app.command(cls=PlainCommand)
def usage(
    by: Annotated[
        str,
        typer.Option(
            metavar="WHAT", help="key, model, user, instance, day or hour.", autocompletion=usage_groups
        ),
    ] = "model",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="A span (24h, 7d, 4w), a day (2026-11-30), or today.")
    ] = "30d",
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    no_color: NoColor = False,
) -> None:
    """Show the requests and tokens of models, keys or users.

    Tokens are those that the engines reported. Of streams whose engine reported none they are estimated and marked
    with ~. GPU is the share of the engines' busy time. Days are those of this machine's clock, and usage is kept by
    the hour. A gateway that crashes loses the last five seconds.

    \b
    Examples:
      sage inference usage --by key --since today
      sage inference usage --by day --since 4w --csv > usage.csv
    """
    from sage_inference.config.paths import Paths
    from sage_inference.daemon.usage import usage as read

    if as_json and as_csv:
        raise wrong_usage("--json and --csv exclude each other")
    found = read(Paths.resolve(), by, since)
    if as_json:
        terminal.say_json(found)
    elif as_csv:
        terminal.say_made(_csv(found))
    else:
        _show(found)


def _csv(found: dict[str, Any]) -> str:
    written = io.StringIO()
    names = list(found["total"])
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow([found["by"], *names])
    rows.writerows([[_inert(row[found["by"]]), *(row[name] for name in names)] for row in found["rows"]])
    return written.getvalue().rstrip("\n")


def _inert(name: str) -> str:
    """The name as a text that no spreadsheet takes for a formula: users choose their names."""
    return f"'{name}" if name[:1] in tuple("=+-@\t\r") else name


def _show(found: dict[str, Any]) -> None:
    if not found["rows"]:
        terminal.say(f"no requests since {_time(found['since'])}")
        return
    rows = (
        [*found["rows"], {found["by"]: "all", **found["total"]}] if len(found["rows"]) > 1 else found["rows"]
    )
    cells = [[_name(row[found["by"]]), *_cells(row)] for row in rows]
    headers = [found["by"].upper(), *_HEADERS]
    terminal.say_made(_table(headers, cells))
    terminal.talk(f"since {_time(found['since'])}")


def _table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    width = table.width_of_terminal()
    columns = dict(zip(headers, zip(*cells, strict=True), strict=True))
    for header in _LESS:
        narrow = width is not None and not table.fits([*columns], [*columns.values()], width, longest=32)
        if narrow or all(cell in ("0", "0 ms") for cell in columns[header]):
            del columns[header]
    return table.render([*columns], list(zip(*columns.values(), strict=True)), width=width)


def _cells(row: dict[str, Any]) -> list[str]:
    prompt = _tokens(row["prompt_tokens"], row["estimated_prompt_tokens"])
    answer = _tokens(row["completion_tokens"], row["estimated_completion_tokens"])
    plain = [count(row[name]) for name in ("requests", "errors")]
    return [
        *plain,
        prompt,
        count(row["cached_tokens"]),
        answer,
        count(row["embedding_texts"]),
        duration(row["gpu_seconds"]),
    ]


def _tokens(reported: int, estimated: int) -> str:
    return f"~{count(reported + estimated)}" if estimated else count(reported)


def _name(name: str) -> str:
    return name or "-"


def _time(text: str) -> str:
    return text[:16].replace("T", " ")
