"""``logs``: the gateway's log, or an engine's, as text or as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import engines, log_levels
from sage_inference.cli.errors import usage
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.loglines import of_engine, record
from sage_inference.cli.options import OUTPUT, NoColor, check_choice
from sage_inference.cli.pausing import pause
from sage_inference.log_files.reader import Fits, Log

if TYPE_CHECKING:
    from sage_inference.config.paths import Paths

app = plain_app()
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


@app.command(cls=PlainCommand)
def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="An engine of ps; without it, the gateway.", autocompletion=engines
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Last lines to show.")
    ] = 100,
    level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Least severe level to show.", autocompletion=log_levels),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, schema 1.", rich_help_panel=OUTPUT)
    ] = False,
    no_color: NoColor = False,
) -> None:
    """Show the gateway's log, or an engine's.

    An engine's log has what the engine itself printed, of this start and of earlier ones.

    \b
    Examples:
      sage inference logs -n 20
      sage inference logs --follow --level warning
      sage inference logs bge-m3 -f
    """
    from sage_inference.config.paths import Paths

    if name is not None and level is not None:
        raise usage("the lines of an engine's log have no level", f"sage inference logs {name} | grep WORD")
    fits = _at_least(level)
    path = Paths.resolve().log_file if name is None else _log_of(name, Paths.resolve())
    show = _show_json if as_json else _show
    with Log(path) as log:
        found = log.last(lines, fits)
        if not found and not path.exists():
            terminal.talk(f"nothing is logged yet in {path}")
        for line in found:
            show(record(line) if name is None else of_engine(line))
        if follow:
            for line in log.follow(fits, pause):
                show(record(line) if name is None else of_engine(line))


def _log_of(name: str, paths: Paths) -> Path:
    """The log of an engine that its keeper writes. Works without a gateway."""
    from sage_inference.daemon import managed

    known = managed.names_with_log(paths.state_dir)
    if name in known:
        return managed.log_file(paths.state_dir, name)
    found = managed.find(managed.listing(paths).engines, name)
    if found is None:
        raise managed.unknown(name, known)
    return managed.log_file(paths.state_dir, found["name"])


def _at_least(level: str | None) -> Fits:
    if level is None:
        return lambda line: True
    from sage_inference.config.settings import LOG_LEVELS

    check_choice("level", level, LOG_LEVELS)
    wanted = {*LOG_LEVELS[LOG_LEVELS.index(level) :], "critical"}
    # str(), because the level of a foreign line may be of any type.
    return lambda line: str(record(line).get("level")) in wanted


def _show_json(document: dict[str, Any]) -> None:
    terminal.say_json({"schema": 1, **document})


def _show(document: dict[str, Any]) -> None:
    """One line, and a traceback's lines below it. No value can forge a line or steer the terminal."""
    level = str(document.get("level") or "")
    moment = str(document.get("time") or "")[:19].replace("T", " ")
    words = [part for part in (moment, level, str(document.get("message", ""))) if part]
    terminal.say(" ".join(words), style=_COLOURS.get(level))
    trace = document.get("exception")
    for line in str(trace).split("\n") if trace else ():
        terminal.say(f"  {line}")
